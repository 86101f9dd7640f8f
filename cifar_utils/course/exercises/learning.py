"""Exercises and gaps of notebook 03, How a network learns."""

from cifar_utils.course.exercises.form import Exercise

EXERCISES: dict[str, Exercise] = {}

GAPS: dict[str, Exercise] = {}
