import timm

from ibnvision.benchmark import lambda_converter, record, report


def test_quick_runs_and_becomes_a_table(tmp_path, capsys):
    path = tmp_path / "lambda_converter.jsonl"
    assert lambda_converter.main(["--quick", "--out", str(path)]) == 0
    records = record.read(path)
    outcomes = {r["models"][0]: (r["class"], r["outcome"]) for r in records if "models" in r}
    assert outcomes == {
        "beit_base_patch16_224": ("Beit", "served"),
        "cait_xxs24_224": ("Cait", "refused"),
        "vit_tiny_patch16_224": ("VisionTransformer", "served"),
    }
    found = {r["window"]: r["value"] for r in records if r["metric"] == "difference"}
    assert found["whole"] < 1e-5 < 1e-2 < found["trained"] < found["5"] and found["resized"] == 1
    assert "2 of 3 names are served" in capsys.readouterr().out
    full = [r | {"quick": False} for r in records]
    text = report.readme_tables(full)["lambda_converter"]
    assert "mixes heads or softmaxes" in text and "vit_tiny_patch16_224" in text


def test_an_error_that_is_no_refusal_is_told(monkeypatch):
    monkeypatch.setattr(lambda_converter, "to_lambda", {}.__getitem__)
    found = lambda_converter.outcome("vit_tiny_patch16_224")
    assert found["outcome"] == "failed" and found["reason"].startswith("KeyError: ")


def test_names_are_all_of_the_plain_transformers():
    found = lambda_converter.names()
    assert set(timm.list_models(module="vision_transformer")) < set(found)
    assert set(timm.list_models(module="eva")) < set(found)
    assert not [name for name in found if "_lambda_" in name or "_ibn_" in name]
    assert set(lambda_converter.RUN) <= set(found) and len(lambda_converter.RUN) == 8
