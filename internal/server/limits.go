package server

import (
	"context"
	"net"
	"net/netip"
	"sync"
)

// What those may hold of the port who have not said who they are: connections
// in all, and from one address. A cluster's API server opens many at once, so
// the second is not small; TLS handshake and request head have their own
// deadlines (port.go).
const (
	maxStrangers           = 512
	maxStrangersPerAddress = 256
)

// door counts the connections of strangers.
type door struct {
	most, mostPerAddress int

	mu        sync.Mutex
	strangers int
	from      map[netip.Addr]int
}

func newDoor(most, mostPerAddress int) *door {
	return &door{most: most, mostPerAddress: mostPerAddress, from: map[netip.Addr]int{}}
}

// guarded closes connections of strangers beyond the limits at once.
func (d *door) guarded(l net.Listener) net.Listener { return &guardedListener{Listener: l, door: d} }

type guardedListener struct {
	net.Listener
	door *door
}

func (l *guardedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if guest, ok := l.door.enter(conn); ok {
			return guest, nil
		}
		_ = conn.Close()
	}
}

// guest is a connection that counts as a stranger's until it is closed or
// promoted.
type guest struct {
	net.Conn
	door *door
	from netip.Addr
	once sync.Once
}

func (d *door) enter(conn net.Conn) (*guest, bool) {
	var from netip.Addr
	if at, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		from = at.Addr().Unmap()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.strangers >= d.most || d.from[from] >= d.mostPerAddress {
		return nil, false
	}
	d.strangers++
	d.from[from]++
	return &guest{Conn: conn, door: d, from: from}, true
}

func (g *guest) promote() {
	g.once.Do(func() {
		g.door.mu.Lock()
		defer g.door.mu.Unlock()
		g.door.strangers--
		if g.door.from[g.from]--; g.door.from[g.from] == 0 {
			delete(g.door.from, g.from)
		}
	})
}

// Close closes the connection.
func (g *guest) Close() error {
	g.promote()
	return g.Conn.Close()
}

type guestKey struct{}

// withGuest remembers a connection for its requests.
func withGuest(ctx context.Context, conn net.Conn) context.Context {
	if under, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = under.NetConn()
	}
	if g, ok := conn.(*guest); ok {
		return context.WithValue(ctx, guestKey{}, g)
	}
	return ctx
}

// promote tells that the connection of a request is no stranger's.
func promote(ctx context.Context) {
	if g, ok := ctx.Value(guestKey{}).(*guest); ok {
		g.promote()
	}
}
