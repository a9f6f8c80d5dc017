import io

from rich.console import Console

from ibnvision.engine.progress import results_table
from ibnvision.metrics import DetectionMetric, SegmentationMetric


def shown(metric, width=80, domains=("streets_day (test)", "streets_fog (test)")):
    console = Console(width=width, file=io.StringIO())
    row = {"images": 3, **metric.compute()}
    row |= {key: 12.34 for key, value in row.items() if isinstance(value, float)}
    console.print(results_table(dict.fromkeys(domains, row), "step 7"))
    return console.file.getvalue()


def test_scores_of_a_detector_fit_a_narrow_log_with_classes_below():
    text = shown(DetectionMetric(("car", "person")))
    head = [line for line in text.splitlines() if "domain" in line]
    assert len(head) == 2 and "ap small" in head[0] and "voc ap50 11point" in head[1]
    assert text.count("12.3") == 2 * 10  # whole numbers, of each domain
    assert "ap50 of each class" in text and "car" in text and "step 7" in text
    assert "voc ap50: Pascal VOC" in text and "images without objects: counted" in text


def test_long_names_of_domains_break_and_cut_no_number():
    domains = [f"cityscapes_foggy_{beta}_boxes (test)" for beta in ("005", "all")]
    text = shown(DetectionMetric(("car", "person")), domains=domains)
    assert text.count("12.3") == 2 * 10 and "voc ap50 11point" in text and "…" not in text


def test_few_classes_of_a_segmenter_stand_beside_the_scores():
    text = shown(SegmentationMetric(("road", "sky")), width=120)
    [head] = [line for line in text.splitlines() if "domain" in line]
    assert "miou strict" in head and "sky" in head and "of each class" not in text
    many = shown(SegmentationMetric([f"class {i}" for i in range(13)]), width=120)
    assert "iou of each class" in many and "class 12" in many
