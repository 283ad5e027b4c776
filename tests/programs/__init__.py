"""Real programs, unmodified: each runs natively and under megalith, and must give the same output."""
