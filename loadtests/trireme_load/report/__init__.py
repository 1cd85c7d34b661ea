"""The pages: what was measured, in figures and charts, without references to anything outside them."""
