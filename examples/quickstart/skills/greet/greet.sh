#!/bin/sh
echo "$GREETING from $(hostname)"
