#!/bin/sh
# What the last commit touches, one path a line.
exec git diff --name-only HEAD~1
