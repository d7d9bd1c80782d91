// Package kube runs replicas as pods of a Kubernetes cluster.
package kube
