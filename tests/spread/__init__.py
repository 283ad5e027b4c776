"""Spread mode with real programs: threads on several hosts, held to what the same program does natively."""
