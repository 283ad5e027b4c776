"""What happens when hosts, cables, memory or users fail: an end, in time, with one line, and nothing left."""
