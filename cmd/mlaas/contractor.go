package main

import (
	"context"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas/contractor"
	"mlaas.dev/mlaas/health"
)

func (c *cli) contractorCommand() *cobra.Command {
	return c.serviceCommand("contractor", "Run the service that schedules runs",
		`Runs the contractor: it hears what was asked and what replicas do, decides
who may start and where, and tells the boosters.`,
		"  mlaas contractor --store redis://:PASSWORD@10.0.0.2:6379/mlaas --key-file key", nil, runContractor)
}

func runContractor(ctx context.Context, s *service) error {
	db, l, err := s.join(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	x := &contractor.Contractor{DB: db, Member: s.member, Log: s.Log, Trace: s.tracer, Counts: new(contractor.Counts)}
	showContractor(s.metrics, x.Counts)
	s.prober(health.Store(db, s.ID), health.Messages(db, true))
	server := &http.Server{Handler: s.internalAPI(nil), ReadHeaderTimeout: 10 * time.Second}
	return s.serve(ctx, l, server, nil, nil, map[string]func(context.Context) error{"contractor": x.Run})
}
