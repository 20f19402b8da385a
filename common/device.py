"""The device that a network computes on."""

from __future__ import annotations

MAX_REASON = 120  # characters of torch's own message


def find_device(name: str, argument: str = "--device "):
    """The ``torch.device`` called ``name``; ValueError if this machine cannot compute on it.

    argument: how the user gives a device, ``--device `` or ``device=``, for the message.
    """
    import torch  # not needed to read a command line, and slow to import

    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0].split(". ")[0][:MAX_REASON]
        raise ValueError(
            f"{argument}{name}: not usable here ({reason}); give {argument}cpu"
        ) from None

    # torch cannot read back a checkpoint whose tensors are tagged cpu:1
    return torch.device("cpu") if device.type == "cpu" else device
