"""Puts the fake in the place of ``megalith._core``, in every Python process that has this directory on its path."""

import sys

import fake_core

sys.modules["megalith._core"] = fake_core
