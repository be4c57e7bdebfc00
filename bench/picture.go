package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"
)

// Sizes of the picture, in pixels.
const (
	pictureWidth = 960
	plotLeft     = 120
	plotRight    = pictureWidth - 120
	lane         = 22
	titleHeight  = 26
	axisHeight   = 22
)

var colours = map[string]string{floorColumn: "#7a7a7a", upstreamColumn: "#d1495b", ownColumn: "#1f77b4"}

var shown = map[string]string{floorColumn: "floor", upstreamColumn: "upstream", ownColumn: "this kubelet"}

// picture draws the distribution of each row of times: a dot for each value, a
// box from the lower to the upper quartile, a line at the median, and a mark
// at the 99th percentile.
func (r *report) picture() []byte {
	var body bytes.Buffer
	y := 44.0
	for _, w := range r.ordered() {
		if w.Unit != milliseconds || w.isNote || len(w.Values[ownColumn]) < 3 {
			continue
		}
		y = w.draw(&body, y)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%.0f" font-family="sans-serif" font-size="12">`+"\n", pictureWidth, y+10)
	out.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	fmt.Fprintf(&out, `<text x="12" y="22" font-size="14">Milliseconds; a dot is one measurement, the box holds the middle half, the bar is the median, the triangle the 99th percentile</text>`+"\n")
	out.Write(body.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes()
}

func (w *row) draw(out *bytes.Buffer, y float64) float64 {
	var columns []string
	most := 0.0
	for _, c := range allColumns {
		if len(w.Values[c]) > 0 {
			columns = append(columns, c)
			most = max(most, summarize(w.Values[c]).Max)
		}
	}
	step := roundStep(most / 6)
	most = math.Ceil(most/step) * step
	x := func(v float64) float64 { return plotLeft + v/most*(plotRight-plotLeft) }
	fmt.Fprintf(out, `<text x="12" y="%.0f" font-weight="bold">%s</text>`+"\n", y+16, w.What)
	y += titleHeight
	bottom := y + lane*float64(len(columns))
	for v := 0.0; v <= most+step/2; v += step {
		fmt.Fprintf(out, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#e4e4e4"/>`, x(v), y, x(v), bottom)
		fmt.Fprintf(out, `<text x="%.1f" y="%.1f" text-anchor="middle" fill="#666" font-size="10">%s</text>`+"\n", x(v), bottom+13, number(v))
	}
	for _, c := range columns {
		w.drawLane(out, c, y, x)
		y += lane
	}
	return bottom + axisHeight + 8
}

func (w *row) drawLane(out *bytes.Buffer, column string, y float64, x func(float64) float64) {
	values := slices.Sorted(slices.Values(w.Values[column]))
	colour, middle := colours[column], y+lane/2
	fmt.Fprintf(out, `<text x="%d" y="%.1f" text-anchor="end" fill="%s">%s</text>`+"\n", plotLeft-8, middle+4, colour, shown[column])
	for i, v := range values {
		// Neighbours are spread over the lane, the same way in each run.
		offset := (float64(i*7%11)/10 - 0.5) * (lane - 8)
		fmt.Fprintf(out, `<circle cx="%.1f" cy="%.1f" r="1.8" fill="%s" fill-opacity="0.45"/>`, x(v), middle+offset, colour)
	}
	low, high, median, p99 := quantile(values, 0.25), quantile(values, 0.75), quantile(values, 0.5), quantile(values, 0.99)
	fmt.Fprintf(out, `<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="%s" fill-opacity="0.18" stroke="%s"/>`,
		x(low), y+3, max(x(high)-x(low), 1), lane-6, colour, colour)
	fmt.Fprintf(out, `<rect x="%.1f" y="%.1f" width="3" height="%d" fill="%s"/>`, x(median)-1.5, y+1, lane-2, colour)
	fmt.Fprintf(out, `<path d="M%.1f %.1f l4 6 l-8 0 z" fill="%s"/>`, x(p99), middle-3, colour)
	fmt.Fprintf(out, `<text x="%d" y="%.1f" fill="%s" font-size="11">%s</text>`+"\n", plotRight+8, middle+4, colour, number(median)+" / "+number(p99))
}

// roundStep is the next 1, 2 or 5 times a power of ten.
func roundStep(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= v {
			return m * power
		}
	}
	return 10 * power
}
