"""Which held-out prompts are used for what; the seeds differ, so the sets do."""

#: Reported in the model card and committed beside the checkpoint.
HELD_OUT_SEED, HELD_OUT_COUNT = 10_007, 500

#: Looked at while training, to keep the best checkpoint.
DEVELOPMENT_SEED, DEVELOPMENT_COUNT = 20_001, 256
