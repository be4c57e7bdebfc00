package config

import "testing"

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		if _, err := Parse([]string{"--max-pods=5", "--feature-gates=EventedPLEG=true"}); err != nil {
			b.Fatal(err)
		}
	}
}
