// Package booster is the one door to computing resources: it starts replicas
// on any of its clusters, watches them, and reports what they do (paper §4.3).
//
// booster.go takes requests from the queue, fleet.go knows which clusters are
// up, informer.go turns their news into records and messages and watches the
// action rules, monitor.go is the door for logs, metrics and checkpoints,
// executor.go says what a cluster must do.
package booster
