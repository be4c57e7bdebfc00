package probe

import "container/heap"

// schedule holds all tasks that are scheduled, the next one first.
type schedule []*task

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].due.Before(s[j].due) }
func (s schedule) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].index, s[j].index = i, j
}

// Push and Pop are for package heap.
func (s *schedule) Push(x any) {
	t := x.(*task)
	t.index = len(*s)
	*s = append(*s, t)
}

func (s *schedule) Pop() any {
	old := *s
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*s = old[:len(old)-1]
	t.index = -1
	return t
}

func (s *schedule) add(t *task)    { t.at = scheduled; heap.Push(s, t) }
func (s *schedule) remove(t *task) { t.at = parked; heap.Remove(s, t.index) }
