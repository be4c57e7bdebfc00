// Package lifecycle decides and performs the steps of a pod's life. Plan
// (plan.go) is pure: pod, observed state, history and time in, actions out.
// Each action is one step in a file of its own and acts through the rim
// (rim.go) with a deadline. The package owns no table.
package lifecycle
