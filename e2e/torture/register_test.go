package main

import (
	"math"
	"testing"

	"github.com/anishathalye/porcupine"
)

func op(client int, call, back int64, in registerIn, out registerOut) porcupine.Operation {
	in.job = "a"
	return porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: back}
}

// A planted fault is found, and what is allowed passes: else the check would
// say nothing.
func TestRegisters(t *testing.T) {
	read := func(rev, value int64) (registerIn, registerOut) {
		return registerIn{}, registerOut{revision: rev, value: value}
	}
	write := func(rev, value int64) registerIn { return registerIn{write: true, revision: rev, value: value} }
	done := func(rev, value int64) registerOut { return registerOut{revision: rev, value: value} }
	in1, out1 := read(1, 0)
	in2, out2 := read(2, 7)
	tests := []struct {
		name    string
		history []porcupine.Operation
		want    bool
	}{
		{"one after another", []porcupine.Operation{
			op(0, 0, 1, in1, out1), op(0, 2, 3, write(1, 7), done(2, 7)), op(1, 4, 5, in2, out2)}, true},
		{"a read that overlaps a write may see either", []porcupine.Operation{
			op(0, 0, 9, write(1, 7), done(2, 7)), op(1, 1, 2, in1, out1), op(2, 3, 4, in2, out2)}, true},
		{"a stale read", []porcupine.Operation{
			op(0, 0, 1, write(1, 7), done(2, 7)), op(1, 2, 3, in1, out1)}, false},
		{"a write that was acknowledged and is gone", []porcupine.Operation{
			op(0, 0, 1, write(1, 7), done(2, 7)), op(1, 2, 3, write(1, 8), done(2, 8))}, false},
		{"a write over an old revision that was let through", []porcupine.Operation{
			op(0, 0, 1, write(1, 7), done(2, 7)), op(1, 2, 3, write(1, 8), done(3, 8))}, false},
		{"a write that was refused though it was not stale", []porcupine.Operation{
			op(0, 0, 1, in1, out1), op(0, 2, 3, write(1, 7), registerOut{stale: true})}, false},
		{"a write without an answer that happened", []porcupine.Operation{
			op(0, 0, math.MaxInt64, write(1, 7), registerOut{unknown: true}), op(1, 2, 3, in2, out2)}, true},
		{"a write without an answer that did not happen", []porcupine.Operation{
			op(0, 0, math.MaxInt64, write(1, 7), registerOut{unknown: true}), op(1, 2, 3, in1, out1),
			op(1, 4, 5, write(1, 8), done(2, 8))}, true},
		{"a write without an answer that came and went", []porcupine.Operation{
			op(0, 0, math.MaxInt64, write(1, 7), registerOut{unknown: true}), op(1, 2, 3, in2, out2), op(1, 4, 5, in1, out1)}, false},
		{"a value that nobody wrote", []porcupine.Operation{
			op(0, 0, 1, write(1, 7), done(2, 7)), op(1, 2, 3, registerIn{}, registerOut{revision: 2, value: 9})}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := Registers{jobs: []string{"a"}, events: tt.history}
			var tally Tally
			r.check(&tally)
			if tally.clean() != tt.want {
				t.Errorf("linearizable: %v, want %v", tally.clean(), tt.want)
			}
		})
	}
}
