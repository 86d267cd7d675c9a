"""Arrays and numbers, no Keras model: scores, structures, schedules, exact counts."""
