import xml.etree.ElementTree as ElementTree

from serl_core.judging.plots import Dot, Line, chart, curves


def parsed(text):
    return ElementTree.fromstring(text)


def test_a_chart_is_well_formed_and_its_corners_are_in_their_place():
    """Guards the page against markup that swallows what follows, and a curve that hangs upside down."""
    line = Line("held_out", [0.0, 1.0], [0.0, 1.0], [Dot(1.0, 0.0, "5 > 4")])
    found = parsed(chart('class "<b>"', ("recall", "precision"), [line], ideal=True))
    (drawn,) = found.iter("polyline")
    (left, low), (right, high) = (map(float, point.split(",")) for point in drawn.attrib["points"].split())
    (dot,) = found.iter("circle")
    assert left < right and low > high and (float(dot.attrib["cx"]), float(dot.attrib["cy"])) == (right, low)
    assert found.attrib["aria-label"] == 'class "<b>"' and dot[0].text == "5 > 4"


def test_each_class_is_drawn_and_a_class_without_a_frame_has_no_dot():
    """Guards n-way pages, and a dot at a recall of 100 % where there was nothing to recall."""
    nothing = {"precision_recall": {"threshold": [], "precision": [], "recall": []}}
    some = {"precision_recall": {"threshold": [0.5], "precision": [1.0], "recall": [1.0]}}
    bins = {"reliability": {"probability": [0.1], "share": [0.0], "frames": [3]}}
    figures = {"threshold": 0.5, "precision": 1.0, "recall": 1.0}
    classes = {
        "lost": {"held_out": {**figures, "successes": 0}, "curves": {"held_out": {**nothing, **bins}}},
        "in": {"held_out": {**figures, "successes": 4}, "curves": {"held_out": {**some, **bins}}},
    }
    text = curves({"success": "in", "frames": {"in": 4, "lost": 0, "out": 3}, "classes": classes})
    found = [[len(list(chart.iter("circle"))) for chart in section] for section in parsed(f"<p>{text}</p>")]
    assert found == [[1, 1], [0, 1]] and text.index("class &quot;in") < text.index("class &quot;lost")
    assert curves({"success": "in", "frames": {"in": 4, "lost": 0}, "classes": classes}).count("<svg") == 2
