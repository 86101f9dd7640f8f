"""Exercises and gaps of notebook 09, Transfer learning."""

from cifar_utils.course.exercises.form import Exercise

EXERCISES: dict[str, Exercise] = {}

GAPS: dict[str, Exercise] = {}
