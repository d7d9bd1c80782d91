package booster

import (
	"math"
	"reflect"
	"testing"
	"time"

	"mlaas.dev/mlaas"
)

// The best value of each metric is kept, by the direction that its name or the
// job tells, and a new process of booster goes on from the record.
func TestBest(t *testing.T) {
	c := &cell{metrics: map[string]mlaas.Number{}, best: map[string]best{}, wake: make(chan struct{}, 1)}
	c.judged = mlaas.Evaluation{Metric: "goodness", Direction: "min"}
	add := func(step int64, key string, v mlaas.Number) {
		c.points(time.Now(), []mlaas.Point{{Key: key, Step: step, Value: v}})
	}
	for i, v := range []mlaas.Number{0.5, 0.9, mlaas.Number(math.NaN()), 0.9, 0.7} {
		add(int64(i), "val_acc", v)
		add(int64(i), "loss", v)
		add(int64(i), "goodness", v)
		add(int64(i), "lr", v)
	}
	r := mlaas.Replica{Metrics: map[string]mlaas.Number{"loss": 0.1}, Best: map[string]mlaas.Best{"loss": {Value: 0.1, Step: 77}}}
	c.pour(&r)
	want := map[string]mlaas.Best{"val_acc": {Value: 0.9, Step: 1}, "loss": {Value: 0.1, Step: 77}, "goodness": {Value: 0.5, Step: 0}}
	if !reflect.DeepEqual(r.Best, want) {
		t.Errorf("%+v, want %+v", r.Best, want)
	}
}
