package logs

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// filled makes a log of that many bytes with lines of that length.
func filled(b *testing.B, size, length int) *world {
	w := newWorld(b)
	f, err := os.Create(w.path("0.log"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	text := bytes.Repeat([]byte{'x'}, length)
	var block bytes.Buffer
	for i := 0; block.Len() < 1<<20; i++ {
		fmt.Fprintf(&block, "2026-01-02T03:04:%02d.%09dZ stdout F %s\n", i/1000%60, i*997%1_000_000_000, text)
	}
	for n := 0; n < size; n += block.Len() {
		if _, err := f.Write(block.Bytes()); err != nil {
			b.Fatal(err)
		}
	}
	return w
}

func benchmarkRead(b *testing.B, length int, opts v1.PodLogOptions) {
	const size = 64 << 20
	w := filled(b, size, length)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		if err := w.r.Read(b.Context(), testPod(), testID, &opts, io.Discard, io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead100(b *testing.B)  { benchmarkRead(b, 100, v1.PodLogOptions{}) }
func BenchmarkRead1000(b *testing.B) { benchmarkRead(b, 1000, v1.PodLogOptions{}) }
func BenchmarkReadTimestamps100(b *testing.B) {
	benchmarkRead(b, 100, v1.PodLogOptions{Timestamps: true})
}
func BenchmarkReadSince100(b *testing.B) {
	benchmarkRead(b, 100, v1.PodLogOptions{SinceSeconds: ptr[int64](1 << 30)})
}

// BenchmarkTail is the last 100 lines of a file of 1 GiB.
func BenchmarkTail(b *testing.B) {
	w := filled(b, 1<<30, 100)
	b.ReportAllocs()
	for b.Loop() {
		if err := w.r.Read(b.Context(), testPod(), testID, &v1.PodLogOptions{TailLines: ptr[int64](100)}, io.Discard, io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkServed is a log through an HTTPS connection, as the kubelet's API
// serves it: each write is flushed.
func BenchmarkServed(b *testing.B) {
	const size = 64 << 20
	w := filled(b, size, 100)
	s := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		flush := http.NewResponseController(rw).Flush
		if err := w.r.Read(r.Context(), testPod(), testID, &v1.PodLogOptions{}, writerFunc(func(p []byte) (int, error) {
			n, err := rw.Write(p)
			if err == nil {
				err = flush()
			}
			return n, err
		}), nil); err != nil {
			b.Error(err)
		}
	}))
	defer s.Close()
	buf := make([]byte, 64<<10)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		resp, err := s.Client().Get(s.URL)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, buf); err != nil {
			b.Fatal(err)
		}
		resp.Body.Close()
	}
}
