"""What methods remember between steps: small pure state machines over arrays."""
