// Package simulation runs the kubelet's real goroutines (workers, pod
// lifecycle events, admission, image pulls, status writer, mirror pods, the
// watch of the API server) on a fake clock, against a world in memory that
// outlives them: the runtime of package critest, an API server, a disk and a
// cgroup tree. It is the second of two layers; the first drives the pure parts
// on one goroutine (internal/worker/simulation_test.go).
//
// The world (world_test.go) is the truth. An agent (agent_test.go) is built
// as package agent builds it and reaches the world only through a wire
// (wire_test.go, and the client in apiserver_test.go, and rim_test.go), which
// belongs to its generation. Killing an agent cuts its wire: whatever its
// goroutines still do reaches nothing, while a call that was in flight may
// have had its effect, or may have it later. Nothing is written down at a
// kill, and the next agent finds what the world holds.
//
// TestSimulation (random_test.go) lets things happen that are drawn from a
// seed: pods of all kinds come and go, containers crash, sandboxes die, calls
// hang, fail, lie or answer late, the runtime restarts, the API server is away
// or slow, the agent is killed at any microsecond. Then the world calms down,
// and what is wanted has to run, what is not has to be gone. All the while the
// rules of invariants_test.go hold: what the runtime, the disk and the API
// server are asked to do is judged at the moment that they are asked.
//
//	go test ./test/simulation                         # 200 seeds
//	SIM_SEEDS=1000 go test ./test/simulation -run TestSimulation
//	go test ./test/simulation -run TestSimulation -seed 42 -v   # prints the transcript
//
// All choices come from the seed: what happens from one generator, and the
// latency and fate of a call from a hash of seed, time and call, so that they
// do not depend on which goroutine came first. The goroutines are real, though,
// and so are the random jitters of the product's own back-offs, so a seed is
// only nearly a whole run: repeated, it mostly takes the same course. The
// transcript of the run that failed is printed with it; it, not the seed, is
// the evidence.
//
// The other tests put one question each to the same world: what one hung call
// does to the other pods, what a late answer leads to, what a start costs.
package simulation
