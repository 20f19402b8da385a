"""Messages about elements stay short."""

from farfield.models.elements import unknown_element


def test_many_known_elements_are_counted():
    assert "trained on H, C, O: leave" in unknown_element(7, [1, 6, 8])
    text = unknown_element(53, range(1, 51))
    assert "unknown element I (Z = 53); this model was trained on 50 others (H, He, Li, " in text
    assert len(text) < 160
