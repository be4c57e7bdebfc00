package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The files in testdata are what go test -json said of small packages.
func TestWhatMayBeChance(t *testing.T) {
	for _, test := range []struct {
		files, again, says string
	}{
		{"good", "", "ok: 1 tests in 1 packages, 0 skipped"},
		{"good fails", "kubelet/fails\t^(TestBad|TestWorse)$", "fails TestBad/part"},
		{"late", "kubelet/late\t.", "NOT ENDED: late TestHangs"},
		{"setup", "kubelet/setup\t.", "the node does not start"},
		{"ends", "kubelet/ends\t.", "NOT ENDED: ends TestBad"},
		{"late fails setup", "kubelet/fails\t^(TestBad|TestWorse)$\nkubelet/late\t.\nkubelet/setup\t.", "FAILED 6"},
		{"races", "", "DATA RACE"},
		{"panics", "", "panic: no"},
		{"builds", "", "does not build"},
		{"fails races", "", "fails TestBad/part"},
	} {
		t.Run(test.files, func(t *testing.T) {
			var in, out bytes.Buffer
			for _, name := range strings.Fields(test.files) {
				text, err := os.ReadFile(filepath.Join("testdata", name+".json"))
				if err != nil {
					t.Fatal(err)
				}
				in.Write(text)
			}
			ok, again := run(&in, &out, false)
			if got := strings.TrimSpace(strings.Join(again, "")); got != test.again || ok != (test.files == "good") {
				t.Errorf("ok is %t, to be run again is %q, want %q", ok, got, test.again)
			}
			if !strings.Contains(out.String(), test.says) {
				t.Errorf("the report does not say %q:\n%s", test.says, out.String())
			}
		})
	}
}

// Many failures at once are not chance.
func TestTooManyToBeChance(t *testing.T) {
	var in, out bytes.Buffer
	for _, name := range strings.Fields("a b c d e f g h i j") {
		in.WriteString(`{"Action":"run","Package":"p","Test":"Test` + name + `"}` + "\n")
		in.WriteString(`{"Action":"fail","Package":"p","Test":"Test` + name + `"}` + "\n")
	}
	in.WriteString(`{"Action":"fail","Package":"p"}` + "\n")
	if ok, again := run(&in, &out, false); ok || len(again) > 0 {
		t.Errorf("ok is %t, to be run again is %q", ok, again)
	}
}
