"""First-order layer assessment against the paper's ascent: cost, rank correlation, and the layers that each selects.

python benchmarks/layer_assessment.py --model_name_or_path digits-vit-genaf --dataset_name digits --eps 0.3
"""

import argparse
import time

import torch
from scipy.stats import spearmanr

from genaf_hf import PixelModel, layer_robustness, load_images, most_redundant, pgd, with_pixel_values
from genaf_hf.data import stratified_subset
from genaf_hf.models.loading import load_classifier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--eps", type=float, default=8 / 255)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--share", type=float, default=0.2)
    arguments = parser.parse_args()

    classifier, processor = load_classifier(arguments.model_name_or_path)
    model = PixelModel(classifier, processor)
    train = stratified_subset(load_images(arguments.dataset_name)["train"], arguments.samples, seed=0)
    batch = with_pixel_values(train, processor)[:]
    images, labels = model.to_images(batch["pixel_values"]), batch["labels"]
    images = pgd(model, images, labels, eps=arguments.eps, steps=10, step_size=arguments.eps / 4)

    results, seconds = {}, {}
    for method in ("first_order", "ascent"):
        start = time.perf_counter()
        results[method] = layer_robustness(model, images, labels, method=method)
        seconds[method] = time.perf_counter() - start
    names = list(results["ascent"])
    chosen = {method: most_redundant(result, arguments.share) for method, result in results.items()}
    correlation = spearmanr(*([result[name] for name in names] for result in results.values())).statistic
    shared = set(chosen["first_order"]) & set(chosen["ascent"])

    print(f"{len(names)} layers, {len(images)} images, {torch.get_num_threads()} threads")
    print(f"ascent {seconds['ascent']:.1f} s, first order {seconds['first_order']:.2f} s, "
          f"x {seconds['ascent'] / seconds['first_order']:.0f}")  # fmt: skip
    print(f"Spearman {correlation:.3f}; {len(shared)} of {len(chosen['ascent'])} selected layers are the same\n")
    print(f"{'layer':60} {'ascent':>10} {'first order':>12}  selected by")
    for name in sorted(names, key=results["ascent"].__getitem__):
        by = [method for method in results if name in chosen[method]]
        print(f"{name:60} {results['ascent'][name]:10.4f} {results['first_order'][name]:12.4f}  {', '.join(by)}")


if __name__ == "__main__":
    main()
