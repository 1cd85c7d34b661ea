"""Several Triton servers on one machine, with what stands around them: `trireme fleet`."""
