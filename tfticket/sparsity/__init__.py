"""Arrays and numbers, no model: criteria, structures, scopes, schedules, selection.

For authors of criteria, schedules and structures. `topk` turns scores into a mask of an
exact count; `due_steps` finds the step at which a schedule prunes next.
"""
