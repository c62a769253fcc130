"""Programs that use multinorm_optax."""
