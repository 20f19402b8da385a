"""When a training step is compiled; see ``compiled_gradients.py``."""

COMPILE_MODES = {
    "auto": "where the run is planned long enough for it",
    "on": "at the first step",
    "off": "never",
}
AUTO_CPU_MINUTES, AUTO_STEPS = 6.0, 20_000
