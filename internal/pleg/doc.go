// Package pleg is the pod lifecycle event generator: it keeps the table of
// what the runtime really has (package observed), and is its only writer.
//
// A change in the runtime is learned in four ways, each of which is only a
// hint to read the pod again; what is stored always comes from lists and
// statuses of the runtime:
//
//   - the runtime's stream of container events, where it has one;
//   - a pidfd on the first process of each container and sandbox, which also
//     works where events are missing, late or silently lost;
//   - Refresh, which the agent calls after its own actions, for the pod or for
//     the one thing that the action changed;
//   - a full list every 30 s as safety net, or every second while a process
//     runs that cannot be watched.
//
// Reading is per pod. One pod has at most one read under way, requests join
// it or the next one, and a call that takes long leaves the bounded set that
// it started in: a runtime that hangs on one pod delays no other pod, no list
// and not Healthy, which only asks whether the runtime answers at all.
//
// Package pleg reads the runtime, /proc, termination message files and the
// tails of container logs. It writes nothing but the table.
package pleg
