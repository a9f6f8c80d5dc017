import math

from ibnvision import metrics
from ibnvision.metrics import PROTOCOLS


def test_numbers_carry_their_units_and_rules():
    assert [metrics.unit(key) for key in ("miou_pct", "psnr_y_db", "ssim_valid")] == ["%", "dB", ""]
    assert metrics.heading("psnr_rgb_db") == "psnr rgb dB"
    assert metrics.heading("pixel_accuracy_pct") == "pixel accuracy"
    assert metrics.heading("ssim_zero_padded") == "ssim zero padded"
    assert metrics.as_text("psnr_rgb_db", 21.456) == "21.46"
    assert metrics.as_text("ssim_valid", 0.98765) == "0.9877"
    assert metrics.as_text("miou_pct", math.nan) == "-"
    assert metrics.rules(["images", *PROTOCOLS]) == {"protocols": PROTOCOLS}
    assert list(metrics.rules(["miou_pct", "iou_pct"])) == ["absent_rule"]
    named = ["strict_rule", "ece_rule"]
    assert list(metrics.rules(["ece_pct", "miou_strict_pct"])) == named
    assert len(metrics.notes(PROTOCOLS)) == 5
    assert [line.split(":")[0] for line in metrics.notes(["ece_pct", "miou_strict_pct"])] == [
        "miou strict",
        "ece",
    ]
    assert "BT.601" in "".join(metrics.notes(["psnr_y_db"]))


def test_detection_says_its_rules():
    keys = ["images", "ap_pct", "ap50_pct", "voc_ap50_pct", "d_ece_pct", "ap50_by_class_pct"]
    named = ["ap_rule", "voc_rule", "ignore_rule", "empty_image_rule", "d_ece_rule"]
    found = metrics.rules(keys)
    assert list(found) == ["absent_rule", *named]
    assert "101 recalls" in found["ap_rule"] and "IoF" in found["ignore_rule"]
    assert "exclusive" in found["voc_rule"] and "VOC2007" in found["voc_rule"]
    assert "false positive" in found["empty_image_rule"] and "0.3" in found["d_ece_rule"]
    lines = metrics.notes(keys)
    about = ["ap", "voc ap50", "ignored objects", "images without objects", "d ece", "in %, higher"]
    assert [line[: len(start)] for line, start in zip(lines, about, strict=True)] == about
    assert "without a counted object" in lines[-1]
    assert metrics.heading("voc_ap50_11point_pct") == "voc ap50 11point"
    assert metrics.as_text("ap50_by_class_pct", 12.345) == "12.3"
