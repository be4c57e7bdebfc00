package stats

import (
	"compress/gzip"
	"encoding/binary"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/klog/v2"
)

// exposition writes metrics in one pass, without an object per sample: a full
// node has tens of thousands of them at each scrape. It knows the text format,
// OpenMetrics and delimited protobuf (io.prometheus.client.MetricFamily).
// https://prometheus.io/docs/instrumenting/exposition_formats/
type exposition struct {
	format  expfmt.FormatType
	out     []byte
	name    string // of the samples of the current family
	begun   int    // where the current family begins in out
	samples int    // of the current family
	counter bool
	family  []byte // protobuf: the current family
	metric  []byte // protobuf: the current metric
	labels  []byte // of the current sample beyond its row's
}

// newExposition writes in the format that an Accept header asks for into buf.
func newExposition(header http.Header, buf []byte) (e *exposition, contentType string) {
	format := expfmt.NegotiateIncludingOpenMetrics(header)
	switch format.FormatType() {
	case expfmt.TypeOpenMetrics, expfmt.TypeProtoDelim:
	default:
		format = expfmt.NewFormat(expfmt.TypeTextPlain)
	}
	return &exposition{format: format.FormatType(), out: buf[:0]}, string(format)
}

// begin begins a family. A counter whose name does not end in _total is of
// unknown type in OpenMetrics, which allows no such name.
func (e *exposition) begin(name, help string, counter bool) {
	e.end()
	e.name, e.counter, e.begun, e.samples = name, counter, len(e.out), 0
	kind := "gauge"
	if counter {
		kind = "counter"
	}
	switch e.format {
	case expfmt.TypeProtoDelim:
		e.family = protowire.AppendTag(e.family[:0], 1, protowire.BytesType)
		e.family = protowire.AppendString(e.family, name)
		e.family = protowire.AppendTag(e.family, 2, protowire.BytesType)
		e.family = protowire.AppendString(e.family, help)
		e.family = protowire.AppendTag(e.family, 3, protowire.VarintType)
		e.family = protowire.AppendVarint(e.family, map[bool]uint64{true: 0, false: 1}[counter]) // COUNTER, GAUGE
		return
	case expfmt.TypeOpenMetrics:
		if base, ok := strings.CutSuffix(name, "_total"); ok && counter {
			name = base
		} else if counter {
			kind = "unknown"
		}
	}
	e.out = append(e.out, "# HELP "...)
	e.out = append(e.out, name...)
	e.out = append(e.out, ' ')
	e.out = append(e.out, help...)
	e.out = append(e.out, "\n# TYPE "...)
	e.out = append(e.out, name...)
	e.out = append(e.out, ' ')
	e.out = append(e.out, kind...)
	e.out = append(e.out, '\n')
}

// end ends the family, if there is one. One without samples is left out.
func (e *exposition) end() {
	switch {
	case e.name == "":
	case e.samples == 0:
		e.out = e.out[:e.begun]
	case e.format == expfmt.TypeProtoDelim:
		e.out = protowire.AppendBytes(e.out, e.family)
	}
	e.name = ""
}

// finish ends the exposition and returns it.
func (e *exposition) finish() []byte {
	e.end()
	if e.format == expfmt.TypeOpenMetrics {
		e.out = append(e.out, "# EOF\n"...)
	}
	return e.out
}

// label appends a label in the exposition's format, to be handed to sample.
// One value that is not UTF-8, and a pod can name a network interface so,
// would make a scraper refuse all.
func (e *exposition) label(to []byte, name, value string) []byte {
	value = strings.ToValidUTF8(value, "\ufffd")
	if e.format == expfmt.TypeProtoDelim {
		pair := protowire.SizeTag(1) + protowire.SizeBytes(len(name)) + protowire.SizeTag(2) + protowire.SizeBytes(len(value))
		to = protowire.AppendTag(to, 1, protowire.BytesType)
		to = protowire.AppendVarint(to, uint64(pair))
		to = protowire.AppendTag(to, 1, protowire.BytesType)
		to = protowire.AppendString(to, name)
		to = protowire.AppendTag(to, 2, protowire.BytesType)
		return protowire.AppendString(to, value)
	}
	if len(to) > 0 {
		to = append(to, ',')
	}
	to = append(to, name...)
	to = append(to, `="`...)
	for i := range len(value) {
		switch c := value[i]; c {
		case '\\', '"':
			to = append(to, '\\', c)
		case '\n':
			to = append(to, '\\', 'n')
		default:
			to = append(to, c)
		}
	}
	return append(to, '"')
}

// sample writes one sample of the family. labels are as of label; extra are
// pairs of names and values. at zero leaves the time to the scraper.
func (e *exposition) sample(labels []byte, v float64, at time.Time, extra ...string) {
	if len(extra) > 0 {
		e.labels = append(e.labels[:0], labels...)
		for i := 0; i+1 < len(extra); i += 2 {
			e.labels = e.label(e.labels, extra[i], extra[i+1])
		}
		labels = e.labels
	}
	e.samples++
	if e.format == expfmt.TypeProtoDelim {
		e.protoSample(labels, v, at)
		return
	}
	e.out = append(e.out, e.name...)
	if len(labels) > 0 {
		e.out = append(e.out, '{')
		e.out = append(e.out, labels...)
		e.out = append(e.out, '}')
	}
	e.out = append(e.out, ' ')
	e.out = appendFloat(e.out, v)
	if !at.IsZero() {
		e.out = append(e.out, ' ')
		ms := at.UnixMilli()
		if e.format == expfmt.TypeOpenMetrics {
			e.out = strconv.AppendInt(e.out, ms/1000, 10)
			e.out = append(e.out, '.', byte('0'+ms%1000/100), byte('0'+ms%100/10), byte('0'+ms%10))
		} else {
			e.out = strconv.AppendInt(e.out, ms, 10)
		}
	}
	e.out = append(e.out, '\n')
}

// appendFloat writes whole numbers as such, which is shorter and faster.
func appendFloat(to []byte, v float64) []byte {
	if n := int64(v); float64(n) == v && n > -1<<53 && n < 1<<53 {
		return strconv.AppendInt(to, n, 10)
	}
	return strconv.AppendFloat(to, v, 'g', -1, 64)
}

func (e *exposition) protoSample(labels []byte, v float64, at time.Time) {
	m := append(e.metric[:0], labels...)
	field := protowire.Number(2) // gauge
	if e.counter {
		field = 3
	}
	m = protowire.AppendTag(m, field, protowire.BytesType)
	m = append(m, 9) // length: tag and double
	m = protowire.AppendTag(m, 1, protowire.Fixed64Type)
	m = binary.LittleEndian.AppendUint64(m, math.Float64bits(v))
	if !at.IsZero() {
		m = protowire.AppendTag(m, 6, protowire.VarintType)
		m = protowire.AppendVarint(m, uint64(at.UnixMilli()))
	}
	e.metric = m
	e.family = protowire.AppendTag(e.family, 4, protowire.BytesType)
	e.family = protowire.AppendBytes(e.family, m)
}

// value writes a sample if there is one; the number is divided by unit.
func (e *exposition) value(labels []byte, v value, unit float64, at time.Time, extra ...string) {
	if v.ok {
		e.sample(labels, float64(v.n)/unit, at, extra...)
	}
}

// serveExposition answers a scrape with what write writes.
func (r *Reader) serveExposition(w http.ResponseWriter, req *http.Request, write func(*exposition)) {
	select {
	case r.scrapes <- struct{}{}:
		defer func() { <-r.scrapes }()
	default:
		http.Error(w, "too many scrapes at once", http.StatusServiceUnavailable)
		return
	}
	kept, _ := r.buffers.Get().(*[]byte)
	if kept == nil {
		kept = new([]byte)
	}
	e, contentType := newExposition(req.Header, *kept)
	write(e)
	body := e.finish()
	defer func() {
		*kept = body
		r.buffers.Put(kept)
	}()
	w.Header().Set("Content-Type", contentType)
	if err := r.writeBody(w, req, body); err != nil {
		klog.FromContext(req.Context()).V(2).Info("Metrics were not read to their end", "err", err)
	}
}

// writeBody writes the body of an answer, compressed if the client likes.
func (r *Reader) writeBody(w http.ResponseWriter, req *http.Request, body []byte) error {
	w.Header().Add("Vary", "Accept-Encoding")
	if !acceptsGzip(req.Header) {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, err := w.Write(body)
		return err
	}
	w.Header().Set("Content-Encoding", "gzip")
	// The near network costs less than a better ratio would.
	z, _ := r.gzip.Get().(*gzip.Writer)
	if z == nil {
		z, _ = gzip.NewWriterLevel(w, gzip.BestSpeed)
	} else {
		z.Reset(w)
	}
	defer r.gzip.Put(z)
	if _, err := z.Write(body); err != nil {
		return err
	}
	return z.Close()
}

// acceptsGzip reads Accept-Encoding (RFC 9110, section 12.5.3).
func acceptsGzip(header http.Header) bool {
	for _, line := range header.Values("Accept-Encoding") {
		for part := range strings.SplitSeq(line, ",") {
			coding, parameters, _ := strings.Cut(part, ";")
			if strings.TrimSpace(coding) != "gzip" {
				continue
			}
			quality, found := strings.CutPrefix(strings.TrimSpace(parameters), "q=")
			if q, err := strconv.ParseFloat(quality, 64); found && err == nil && q == 0 {
				return false
			}
			return true
		}
	}
	return false
}
