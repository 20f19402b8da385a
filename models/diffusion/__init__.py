"""Diffusion of molecules: noise schedules, the process, and samplers that run it backwards."""
