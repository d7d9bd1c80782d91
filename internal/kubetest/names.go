//go:build linux

package kubetest

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// domain is where the names of services are.
const domain = ".svc.cluster.local."

// A nameServer tells pods the address of a service by its name, as the DNS of a
// cluster does: its own, or those of the pods behind it where it has none. It
// knows no other names.
type nameServer struct {
	cluster *Cluster
	conn    net.PacketConn
}

func (c *Cluster) startNames() error {
	conn, err := c.network.listenPacket(net.JoinHostPort(clusterAddress, "53"))
	if err != nil {
		return err
	}
	c.names = &nameServer{c, conn}
	go c.names.serve()
	return nil
}

// serve answers until the connection is closed. Each question is asked of the
// API server, by itself.
func (n *nameServer) serve() {
	for {
		packet := make([]byte, 1500)
		size, from, err := n.conn.ReadFrom(packet)
		if err != nil {
			return
		}
		go func() {
			if answer := n.answer(packet[:size]); answer != nil {
				n.conn.WriteTo(answer, from) //nolint:errcheck // whoever asked asks again
			}
		}()
	}
}

func (n *nameServer) answer(packet []byte) []byte {
	var asked dnsmessage.Message
	if err := asked.Unpack(packet); err != nil || asked.Response || len(asked.Questions) != 1 {
		return nil
	}
	ctx, cancel := context.WithTimeout(n.cluster.ctx, 4*time.Second) // who asks waits for 5
	defer cancel()
	q := asked.Questions[0]
	addresses, err := n.addresses(ctx, strings.ToLower(q.Name.String()))
	said := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: asked.ID, Response: true, Authoritative: true, RecursionDesired: asked.RecursionDesired},
		Questions: asked.Questions,
	}
	var status *StatusError
	switch {
	case errors.As(err, &status) && status.Code == http.StatusNotFound:
		said.RCode = dnsmessage.RCodeNameError
	case err != nil:
		said.RCode = dnsmessage.RCodeServerFailure
	case q.Type == dnsmessage.TypeA:
		for _, a := range addresses {
			said.Answers = append(said.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1},
				Body:   &dnsmessage.AResource{A: a.As4()},
			})
		}
	}
	answer, err := said.Pack()
	if err != nil {
		return nil
	}
	return answer
}

// addresses are those of SERVICE.NAMESPACE.svc.cluster.local.
func (n *nameServer) addresses(ctx context.Context, name string) (all []netip.Addr, err error) {
	before, ours := strings.CutSuffix(name, domain)
	service, namespace, ok := strings.Cut(before, ".")
	if !ours || !ok || strings.Contains(namespace, ".") {
		return nil, &StatusError{http.StatusNotFound, name + " is no service"}
	}
	in := "/namespaces/" + url.PathEscape(namespace)
	var its struct{ Spec struct{ ClusterIP string } }
	if err := n.cluster.Call(ctx, http.MethodGet, "/api/v1"+in+"/services/"+url.PathEscape(service), nil, &its); err != nil {
		return nil, err
	}
	if its.Spec.ClusterIP != "None" {
		a, err := netip.ParseAddr(its.Spec.ClusterIP)
		return []netip.Addr{a}, err
	}
	var slices struct {
		Items []struct {
			Endpoints []struct {
				Addresses  []string
				Conditions struct{ Ready *bool }
			}
		}
	}
	path := "/apis/discovery.k8s.io/v1" + in + "/endpointslices?labelSelector=" + url.QueryEscape("kubernetes.io/service-name="+service)
	if err := n.cluster.Call(ctx, http.MethodGet, path, nil, &slices); err != nil {
		return nil, err
	}
	for _, slice := range slices.Items {
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			for _, text := range e.Addresses {
				a, err := netip.ParseAddr(text)
				if err != nil {
					return nil, err
				}
				all = append(all, a)
			}
		}
	}
	return all, nil
}
