package allocation

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/dump"

	"kubelet/internal/checkpoint"
)

// The names are the upstream kubelet's, as is the format, so that either finds
// what the other has allocated.
const (
	fileName     = "allocated_pods_state"
	actuatedName = "actuated_pods_state"
)

// file is the outer layer: the payload as text, and a sum of it.
type file struct {
	Data     string `json:"data"`
	Checksum uint64 `json:"checksum"`
}

// payload is the inner one.
type payload struct {
	Entries map[types.UID]Resources `json:"entries,omitempty"`
}

func write(path string, entries map[types.UID]Resources) error {
	data, err := json.Marshal(payload{entries})
	if err != nil {
		return fmt.Errorf("encode allocated resources: %w", err)
	}
	body, err := json.Marshal(file{string(data), sum(string(data))})
	if err != nil {
		return fmt.Errorf("encode allocated resources: %w", err)
	}
	return checkpoint.WriteForeign(path, body)
}

func read(path string) (map[types.UID]Resources, error) {
	body, err := checkpoint.ReadForeign(path)
	if err != nil {
		return nil, err
	}
	entries, err := decode(body)
	if err != nil {
		return nil, fmt.Errorf("read allocated resources from %s: %w", path, err)
	}
	return entries, nil
}

// readIfAny is read of a file that need not be there.
func readIfAny(path string) (map[types.UID]Resources, error) {
	entries, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return entries, err
}

func decode(body []byte) (map[types.UID]Resources, error) {
	var f file
	if err := json.Unmarshal(body, &f); err != nil {
		return nil, err
	}
	if f.Checksum != sum(f.Data) {
		return nil, fmt.Errorf("checksum %d does not match", f.Checksum)
	}
	var p payload
	if err := json.Unmarshal([]byte(f.Data), &p); err != nil {
		return nil, err
	}
	return p.Entries, nil
}

// sum is upstream's: FNV-1a of the text as its printer for hashes writes it.
func sum(data string) uint64 {
	h := fnv.New32a()
	fmt.Fprintf(h, "%v", dump.ForHash(data))
	return uint64(h.Sum32())
}
