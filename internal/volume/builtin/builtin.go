// Package builtin lists the volume types that the agent has. It owns nothing;
// a new type is a line here.
package builtin

import (
	v1 "k8s.io/api/core/v1"

	"kubelet/internal/volume"
	"kubelet/internal/volume/backing"
	"kubelet/internal/volume/configmap"
	"kubelet/internal/volume/downwardapi"
	"kubelet/internal/volume/emptydir"
	"kubelet/internal/volume/hostpath"
	"kubelet/internal/volume/imagevolume"
	"kubelet/internal/volume/projected"
	"kubelet/internal/volume/secret"
)

// Config is what the types need from the rest of the agent.
type Config struct {
	Objects volume.Objects
	Tokens  volume.Tokens
	// Allocatable returns the node's allocatable resources; nil as long as
	// they are not known. It must not block.
	Allocatable func() v1.ResourceList
}

// Plugins returns the volume types in the order in which they are asked.
func Plugins(c Config) []volume.Plugin {
	maker := &backing.Maker{Allocatable: c.Allocatable}
	return []volume.Plugin{
		emptydir.New(maker),
		hostpath.New(),
		imagevolume.New(),
		configmap.New(maker, c.Objects),
		secret.New(maker, c.Objects),
		downwardapi.New(maker),
		projected.New(maker, c.Objects, c.Tokens),
	}
}
