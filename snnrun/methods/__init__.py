"""Training methods: one file and one yaml each."""
