package bubble_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster/scripted"
)

const psAndTwo = `{"roles": {"ps": {"replicas": 1}, "worker": {"replicas": 2}}}`

// Two trainings of three hours, one of which loses a worker half way: it goes
// on from its last checkpoint in its second attempt, and both end well.
func TestThreeHours(t *testing.T) {
	in(t, 4, func(p *platform) {
		a := p.ask("a", psAndTwo, func(f mlaas.Fence) scripted.Script {
			s := trains(f)
			if f.Replica == "worker-1" && f.Epoch == 1 {
				s.LostAt = 95 * time.Minute
			}
			return s
		})
		b := p.ask("b", `{}`, trains)
		time.Sleep(time.Minute)
		p.is(a, mlaas.Running)
		p.is(b, mlaas.Running)
		time.Sleep(96 * time.Minute)
		s := p.is(a, mlaas.Running)
		if s.Epoch != 2 || s.Restarts.Infrastructure != 1 || s.Attempts[1].Step != 18 || !strings.Contains(s.Reason, "attempt 2, from the checkpoint of step 18, because worker-1 was lost") {
			t.Errorf("it does not go on where it was:\n%s", p.tell(a))
		}
		time.Sleep(85 * time.Minute)
		p.is(b, mlaas.Succeeded)
		p.is(a, mlaas.Running)
		time.Sleep(10 * time.Minute)
		s = p.is(a, mlaas.Succeeded)
		if s.ExitCode == nil || *s.ExitCode != 0 {
			t.Errorf("it ended with %v", s.ExitCode)
		}
		last := int64(0)
		for _, c := range p.checkpoints(a) {
			if c.Step <= last {
				t.Errorf("the checkpoint of step %d comes after that of step %d", c.Step, last)
			}
			last = c.Step
		}
		if last != 36 {
			t.Errorf("the last checkpoint is of step %d", last)
		}
		p.empty()
	})
}

// A stopped run leaves nothing, also where a program does not listen.
func TestStop(t *testing.T) {
	in(t, 4, func(p *platform) {
		polite := p.ask("polite", psAndTwo, trains)
		deaf := p.ask("deaf", `{"execution": {"grace": 5}}`, func(mlaas.Fence) scripted.Script { return scripted.Script{Deaf: true} })
		never := p.ask("never", `{}`, func(mlaas.Fence) scripted.Script { return scripted.Script{Never: true} })
		time.Sleep(10 * time.Minute)
		p.is(polite, mlaas.Running)
		p.is(deaf, mlaas.Running)
		p.is(never, mlaas.Starting)
		for _, id := range p.ids {
			p.stop(id)
		}
		time.Sleep(40 * time.Second) // as promised
		for _, id := range p.ids {
			if s := p.is(id, mlaas.Stopped); s.Reason != "stopped by the user" {
				t.Errorf("it says %q", s.Reason)
			}
		}
		p.empty()
	})
}

// Where the machine is full a run waits, with a sentence, and starts when the
// one before it ends.
func TestFull(t *testing.T) {
	in(t, 4, func(p *platform) {
		a := p.ask("a", `{"roles": {"worker": {"cpu": 3}}}`, trains)
		time.Sleep(time.Minute)
		b := p.ask("b", `{"roles": {"worker": {"cpu": 2}}}`, trains)
		p.is(a, mlaas.Running)
		if s := p.is(b, mlaas.Queued); s.Reason != "queued, position 1: needs 2 CPU (1 free of 4); a/1 holds 3, ends unknown" {
			t.Errorf("b waits: %s", s.Reason)
		}
		c := p.ask("c", `{"roles": {"worker": {"cpu": 5}}}`, trains)
		if s := p.is(c, mlaas.Failed); s.Reason != "needs 5 CPU for one worker; the largest cluster, stage, has 4" {
			t.Errorf("c failed: %s", s.Reason)
		}
		time.Sleep(3 * time.Hour)
		p.is(a, mlaas.Succeeded)
		p.is(b, mlaas.Running)
		time.Sleep(3 * time.Hour)
		p.is(b, mlaas.Succeeded)
		p.empty()
	})
}

// What ends a run badly, and what the user reads then.
func TestEnds(t *testing.T) {
	for _, tt := range []struct {
		name, spec string
		part       scripted.Script
		state      mlaas.State
		reason     string
		epoch      int
	}{
		{"exit code 3", `{}`, scripted.Script{Steps: 9, FailAt: 4, Exit: 3}, mlaas.Failed, "worker-0 failed: the program ended with exit code 3", 1},
		{"out of memory", `{}`, scripted.Script{Steps: 9, FailAt: 4, OOM: true}, mlaas.Failed, "worker-0 failed with exit code 137: the program used more memory than its ceiling", 1},
		{"two restarts", `{"execution": {"restarts": {"user": 2}}}`, scripted.Script{Steps: 9, FailAt: 4}, mlaas.Failed, "2 restarts after a failure used up", 3},
		{"no such image", `{"execution": {"restarts": {"user": 2}}}`, scripted.Script{Broken: "there is no such image"}, mlaas.Failed, "worker-0 could not start: there is no such image", 1},
		{"no such package", `{"execution": {"restarts": {"user": 2}}}`, scripted.Script{Refuse: "there is no package tensorflwo"}, mlaas.Failed, "worker-0 could not start: there is no package tensorflwo", 1},
		{"a rule", `{"rules": [{"name": "again", "on": {"status": "failed"}, "do": "restart"}]}`, scripted.Script{Steps: 9, FailAt: 4}, mlaas.Failed, "10 restarts after a failure used up", 11},
		{"a mode that its framework has no template for", `{"code": {"mode": "guiding"}}`, scripted.Script{}, mlaas.Failed, `environment.framework is "python", want one that guiding mode is for: jax, keras, pytorch, tensorflow`, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in(t, 4, func(p *platform) {
				id := p.ask("job", tt.spec, func(mlaas.Fence) scripted.Script { return tt.part })
				time.Sleep(2 * time.Hour)
				if s := p.is(id, tt.state); !strings.Contains(s.Reason, tt.reason) || s.Epoch != tt.epoch {
					t.Errorf("want %q in epoch %d:\n%s", tt.reason, tt.epoch, p.tell(id))
				}
				p.empty()
			})
		})
	}
}

// A booster or a contractor that is away for minutes costs a running program
// nothing.
func TestServicesRestart(t *testing.T) {
	in(t, 8, func(p *platform) {
		id := p.ask("a", psAndTwo, trains)
		time.Sleep(30 * time.Second)
		p.is(id, mlaas.Running)
		for range 6 {
			p.booster.end()
			time.Sleep(7 * time.Minute)
			p.startBooster()
			time.Sleep(3 * time.Minute)
			p.contractor.end()
			time.Sleep(7 * time.Minute)
			p.startContractor()
			time.Sleep(3 * time.Minute)
			p.booster.end()
			p.contractor.end()
			time.Sleep(5 * time.Minute)
			p.startBooster()
			p.startContractor()
		}
		time.Sleep(time.Hour)
		if s := p.is(id, mlaas.Succeeded); s.Epoch != 1 {
			t.Errorf("it was begun again:\n%s", p.tell(id))
		}
		p.empty()
	})
}

// A program that ends while nobody is there has ended all the same, and is not
// run again.
func TestEndsWhileAway(t *testing.T) {
	in(t, 8, func(p *platform) {
		id := p.ask("a", psAndTwo, trains)
		time.Sleep(time.Hour)
		p.is(id, mlaas.Running)
		p.booster.end()
		p.contractor.end()
		time.Sleep(5 * time.Hour)
		p.startBooster()
		p.startContractor()
		time.Sleep(time.Minute)
		if s := p.is(id, mlaas.Succeeded); s.Epoch != 1 {
			t.Errorf("it was run again:\n%s", p.tell(id))
		}
		p.empty()
	})
}

// A run is asked for and stopped while nobody is there.
func TestAskedWhileAway(t *testing.T) {
	in(t, 8, func(p *platform) {
		synctest.Wait() // booster has said what there is
		p.contractor.end()
		p.booster.end()
		a := p.ask("a", `{}`, trains)
		b := p.ask("b", `{}`, trains)
		p.stop(b)
		time.Sleep(time.Hour)
		p.startContractor()
		p.is(b, mlaas.Stopped)
		p.is(a, mlaas.Starting)
		p.stop(a)
		p.is(a, mlaas.Stopped)
		p.startBooster()
		time.Sleep(time.Minute)
		synctest.Wait()
		p.is(a, mlaas.Stopped)
		p.empty()
	})
}
