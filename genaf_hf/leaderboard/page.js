
"use strict";

// Every text in the data is somebody else's: it enters the page as text or as an attribute's value, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 100;
const MOST_FRONTS = 6;
const SVG = "http://www.w3.org/2000/svg";
const find = (id) => document.getElementById(id);

function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function draw(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// ---- rows ----

const entries = data.entries.map((values) => Object.fromEntries(data.names.map((name, i) => [name, values[i]])));
const images = (entry) => [entry.dataset, entry.config, entry.split].filter(Boolean).join(" · ");
const keyOf = (entry) => JSON.stringify([entry.model, images(entry), entry.revision]);
const reportOf = (entry) => JSON.stringify([keyOf(entry), entry.report]);
const cleanOf = new Map(entries.filter((each) => each.attack === "clean").map((each) => [reportOf(each), each]));
const attacked = new Set(entries.filter((each) => each.attack !== "clean").map(reportOf));
const hardened = new Set(data.hardened_encoders);
const allModels = new Set(entries.map((each) => each.model)).size;
const WORST = "worst attack";
const EVERY = "every attack";
const ANY = "any of these";
// Whether an attack on the images that others had left tried some of them only.
const isPartial = ({ standing, attacked }) => attacked < standing;
// What the worst attacks of two models can be compared by: all that was tried by attackers who know the same.
const suiteOf = (entry) => JSON.stringify([keyOf(entry), entry.knowledge]);
const suites = new Map();
for (const each of entries.filter((entry) => entry.attack !== "clean" && entry.attack !== EVERY)) {
  const tried = JSON.stringify([each.attack, each.norm, each.eps, each.area, each.steps, isPartial(each)]);
  for (const key of [suiteOf(each), suiteOf({ ...each, knowledge: ANY })]) suites.set(key, [...(suites.get(key) ?? []), tried]);
}
const rows = entries.filter((each) => each.attack !== "clean" || !attacked.has(reportOf(each))).map(toRow);

// A result under an attack with the clean accuracy of the same model in the same report; or that one alone.
function toRow(entry) {
  const clean = cleanOf.get(reportOf(entry)) ?? null;
  const robust = entry.attack === "clean" ? null : entry;
  const ofClean = robust && clean ? clean.problems.map((problem) => `clean: ${problem}`) : [];
  const row = {
    entry, clean, robust,
    model: entry.model,
    baseModel: entry.base_model,
    kind: entry.kind === "encoder" ? "encoder, by a linear probe" : "classifier",
    encoder: entry.model_class.replace(/ForImageClassification$/, ""),
    dataset: images(entry),
    attack: entry.attack,
    norm: entry.area === null ? entry.norm : "patch",
    eps: entry.eps,
    area: entry.area,
    steps: entry.steps,
    knowledge: robust ? entry.knowledge : "",
    verdict: robust ? (entry.worst ? WORST : entry.attack === EVERY ? EVERY : "other attacks") : "",
    cleanAccuracy: clean && clean.accuracy,
    robustAccuracy: robust && robust.accuracy,
    cleanAtLeast: atLeast(clean),
    robustAtLeast: atLeast(robust),
    problems: [...entry.problems, ...ofClean],
  };
  row.trusted = row.problems.length === 0 && entry.reliable && (clean === null || clean.reliable);
  row.suite = JSON.stringify([row.dataset, row.kind, row.knowledge, [...(suites.get(suiteOf(entry)) ?? [])].sort()]);
  row.condition = JSON.stringify([row.dataset, row.attack, row.norm, row.eps, row.steps, row.kind, row.area, isPartial(entry), ...(row.attack === EVERY ? [row.suite] : [])]);
  row.text = [row.model, row.baseModel, row.encoder, row.dataset, row.attack].join(" ").toLowerCase();
  return row;
}

// What models are ranked by: the lower end of the interval, so that luck on few images ranks nothing high.
function atLeast(entry) {
  return entry && (entry.interval ? entry.interval[0] : 0);
}

const percent = (value) => `${(100 * value).toFixed(1)}%`;
const decimal = (eps) => String(Number(eps.toPrecision(4)));

function fraction(eps) {
  const parts = Math.round(255 * eps);
  return parts > 0 && Math.abs(255 * eps - parts) < 0.01 ? `${parts}/255` : null;
}

function epsText(eps) {
  if (eps === null) return "none";
  return fraction(eps) ? `${fraction(eps)} (${decimal(eps)})` : decimal(eps);
}

// How far an attack may change an image: of a patch its share of the image, within which any pixel is possible.
function reach(row) {
  return row.area === null ? `${row.norm} ${epsText(row.eps)}` : `${row.norm}, ${percent(row.area)} of the image`;
}

// Text that may go on in the next line after a slash.
function breakable(text) {
  return text.split("/").flatMap((part, i) => (i ? ["/", make("wbr"), part] : [part]));
}

// An address on the Hub; null for what could lead elsewhere.
function address(...parts) {
  const segments = parts.join("/").split("/");
  if (!/^https?:\/\//.test(data.endpoint) || segments.some((each) => ["", ".", ".."].includes(each))) return null;
  return `${data.endpoint}/${segments.map(encodeURIComponent).join("/")}`;
}

function link(text, href, label = null) {
  if (href === null) return make("span", {}, ...breakable(text));
  return make("a", { href, target: "_blank", rel: "noopener noreferrer", "aria-label": label }, ...breakable(text));
}

// ---- filters ----

const FILTERS = [
  ["dataset", "Dataset"],
  ["knowledge", "Attacker knows"],
  ["verdict", "Verdict"],
  ["attack", "Attack"],
  ["norm", "Norm"],
  ["eps", "eps"],
  ["steps", "Steps"],
  ["encoder", "Encoder family"],
  ["kind", "Model is"],
];
const selects = new Map(FILTERS.map(([name, title]) => [name, addFilter(name, title)]));

function addFilter(name, title) {
  const values = [...new Set(rows.map((row) => row[name]))];
  const numeric = values.every((value) => value === null || typeof value === "number");
  values.sort((one, other) => (numeric ? one - other : String(one).localeCompare(String(other))));
  const options = values.map((value) =>
    make("option", { value: JSON.stringify(value) }, name === "eps" ? epsText(value) : String(value || "none")));
  const select = make("select", { id: name }, make("option", { value: "" }, "All"), ...options);
  const field = make("div", { class: "field" }, make("label", { for: name }, title), select);
  find("filters").insertBefore(field, find("show-all"));
  select.addEventListener("change", show);
  return select;
}

function filtered() {
  const words = find("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = [...selects].filter(([, select]) => select.value).map(([name, select]) => [name, JSON.parse(select.value)]);
  return rows.filter((row) =>
    wanted.every(([name, value]) => row[name] === value) && words.every((word) => row.text.includes(word)));
}

// The page begins with the conditions that most of the models were measured under, as only these can be compared; where
// there are none, with all results, so that no model is overlooked.
function chooseCommonCondition() {
  const models = new Map();
  for (const row of rows.filter((each) => each.robust && each.attack !== EVERY)) {
    if (!models.has(row.condition)) models.set(row.condition, new Set());
    models.get(row.condition).add(row.model);
  }
  const [common, measured] = [...models].sort((one, other) => other[1].size - one[1].size)[0] ?? [];
  if (!common || 2 * measured.size <= allModels) return;
  const values = JSON.parse(common);
  ["dataset", "attack", "norm", "eps", "steps", "kind"].forEach((name, i) => { selects.get(name).value = JSON.stringify(values[i]); });
}

// ---- table ----

const COLUMNS = [
  ["model", "Model", modelCell],
  ["robustAtLeast", "Robust accuracy", (row) => accuracyCell(row.robust, row)],
  ["cleanAtLeast", "Clean accuracy", (row) => accuracyCell(row.clean, null)],
  [null, "Checks", checksCell],
  ["attack", "Attack", (row) => textCell(row.attack, row.knowledge && `knows ${row.knowledge}${row.entry.worst ? ", worst" : ""}`)],
  ["eps", "eps", epsCell],
  ["dataset", "Dataset", (row) => textCell(row.entry.dataset, [row.entry.config, row.entry.split].filter(Boolean).join(" · "))],
  ["baseModel", "Base model", (row) => textCell(row.baseModel || "-", hardened.has(row.baseModel) ? `${row.encoder}, hardened` : row.encoder)],
];
const heads = COLUMNS.map(([name, title]) => name === null
  ? make("th", { scope: "col", class: "plain" }, title)
  : make("th", { scope: "col" }, make("button", { type: "button" }, title)));
const order = { column: "robustAtLeast", descending: true };
let shown = [];
let start = 0;

heads.forEach((head, i) => {
  const [name] = COLUMNS[i];
  head.querySelector("button")?.addEventListener("click", () => {
    const numeric = rows.some((row) => typeof row[name] === "number");
    order.descending = order.column === name ? !order.descending : numeric;
    order.column = name;
    show();
  });
});
find("head").append(...heads);

function modelCell(row) {
  const { model, commit, report } = row.entry;
  const links = make("span", { class: "quiet links" });
  links.append(link("Card", address(model, "blob", commit, "README.md"), `Card of ${model}`));
  links.append(link("Report", address(model, "blob", commit, report), `Report of ${model}`));
  const kind = ofEncoder(row).map((text) => make("span", { class: "quiet" }, text));
  return make("td", { class: "text" }, link(model, address(model)), ...kind, links);
}

function textCell(text, more = "") {
  return make("td", { class: "text" }, ...breakable(text), ...(more ? [make("span", { class: "quiet" }, more)] : []));
}

// The eps with what it means nothing without.
function epsCell(row) {
  if (row.eps === null) return make("td", { class: "strength" }, "-");
  const size = row.area === null ? fraction(row.eps) ?? decimal(row.eps) : percent(row.area);
  const more = [row.norm, row.steps === null ? "" : `${row.steps} steps`].filter(Boolean);
  const lines = more.map((text) => make("span", { class: "quiet" }, text));
  return make("td", { class: "strength", title: reach(row) }, size, ...lines);
}

function accuracyCell(entry, row) {
  if (entry === null) return make("td", { class: "accuracy number" }, "-");
  const cell = make("td", { class: "accuracy number" }, make("b", {}, percent(entry.accuracy)));
  if (!entry.reliable) cell.append(make("span", { class: "badge" }, "unreliable"));
  const bar = make("span", { class: row === null ? "bar clean" : "bar" });
  bar.append(stretch(make("i"), 0, Math.min(1, Math.max(0, entry.accuracy))));
  if (entry.chance !== null) bar.append(stretch(make("s", { title: `chance ${percent(entry.chance)}` }), entry.chance, entry.chance));
  if (entry.interval) {
    const [low, high] = entry.interval;
    bar.append(stretch(make("u"), low, high));
    cell.append(bar, make("span", { class: "quiet" }, `${entry.correct}/${entry.count} [${percent(low)}, ${percent(high)}]`));
  } else {
    cell.append(bar, make("span", { class: "quiet" }, "without counts"));
  }
  if (row && !row.trusted) cell.classList.add("doubtful");
  return cell;
}

// Whether chance explains an accuracy.
function isGuessing(entry) {
  return entry !== null && entry.chance !== null && entry.interval !== null && entry.interval[0] <= entry.chance;
}

function stretch(element, from, to) {
  element.style.left = `${100 * from}%`;
  element.style.width = `${100 * (to - from)}%`;
  return element;
}

function checksCell(row) {
  const cell = make("td");
  const list = (texts) => make("ul", {}, ...texts.map((text) => make("li", {}, text)));
  const number = row.problems.length;
  if (number) {
    cell.append(make("details", { class: "bad" }, make("summary", {}, `${number} problem${number > 1 ? "s" : ""}`), list(row.problems)));
  }
  const failed = row.entry.failed_checks;
  if (failed.length) {
    cell.append(make("details", { class: "bad", open: "" }, make("summary", {}, `${failed.length} self-check${failed.length > 1 ? "s" : ""} failed`), list(failed)));
  } else if (!row.entry.reliable && row.robust) {
    cell.append(make("span", { class: "failed" }, "a self-check failed"));
  } else if (!number && row.entry.report_checked) {
    cell.append(make("span", { class: "agrees" }, "✓ as its report says"));
  }
  if (isGuessing(row.clean)) cell.append(make("span", { class: "failed" }, "no better than guessing"));
  if (row.entry.notes.length === 1 && row.entry.notes[0].length < 30) {
    cell.append(make("span", { class: "quiet" }, row.entry.notes[0]));
  } else if (row.entry.notes.length) {
    cell.append(make("details", { class: "note" }, make("summary", {}, "Notes"), list(row.entry.notes)));
  }
  return cell;
}

function sortRows(list) {
  const sign = order.descending ? -1 : 1;
  const missing = (value) => value === null || value === "";
  const compare = (one, other) => (typeof one === "number" ? one - other : collator.compare(one, other));
  return list.sort((a, b) => {
    const [one, other] = [a[order.column], b[order.column]];
    if (missing(one) || missing(other)) return missing(one) - missing(other);
    return sign * compare(one, other) || collator.compare(a.model, b.model);
  });
}
const collator = new Intl.Collator("en", { numeric: true });

function showTable() {
  heads.forEach((head, i) => {
    if (COLUMNS[i][0] === order.column) head.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
  const part = shown.slice(start, start + PAGE);
  const body = part.map((row) => make("tr", {}, ...COLUMNS.map(([, , cell]) => cell(row))));
  const empty = make("tr", {}, make("td", { class: "empty", colspan: COLUMNS.length }, "No result fits these filters."));
  find("body").replaceChildren(...(body.length ? body : [empty]));
  find("previous").disabled = start === 0;
  find("next").disabled = start + PAGE >= shown.length;
  document.querySelector(".pages").hidden = shown.length <= PAGE;
  find("page").textContent = `${start + 1} to ${start + part.length} of ${shown.length}`;
}

function turn(by) {
  start += by;
  showTable();
  find("table-title").scrollIntoView();
}

// ---- plot ----

const canBePlotted = (row) => [row.cleanAccuracy, row.robustAccuracy].every((each) => each !== null && each >= 0 && each <= 1);

// The trusted rows for which no other one is sure of at least as much in both accuracies, and of more in one.
function paretoFront(list) {
  const front = [];
  const sorted = list.filter((row) => row.trusted)
    .sort((one, other) => other.cleanAtLeast - one.cleanAtLeast || other.robustAtLeast - one.robustAtLeast);
  for (const row of sorted) {
    const last = front.at(-1);
    const equal = last && last.cleanAtLeast === row.cleanAtLeast && last.robustAtLeast === row.robustAtLeast;
    if (!last || equal || row.robustAtLeast > last.robustAtLeast) front.push(row);
  }
  return front.reverse();
}

function range(values) {
  const low = Math.floor(10 * Math.min(...extremes(values)) - 0.1) / 10;
  const high = Math.ceil(10 * Math.max(...extremes(values)) + 0.1) / 10;
  return [Math.max(0, low), Math.min(1, high)];
}

// Spread arguments are limited in number, and there may be many rows.
function extremes(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [1, 0]);
}

function showPlot() {
  const points = shown.filter(canBePlotted);
  const worst = selects.get("verdict").value === JSON.stringify(WORST);
  const groups = groupBy(points, worst ? "suite" : "condition");
  const separate = groups.size <= MOST_FRONTS;
  find("plot-hint").textContent = hint(points.length, groups.size);
  find("tip").replaceChildren();
  const labels = [...groups.values()].map(([row]) => (worst ? suiteText(row) : conditionText(row)));
  find("legend").replaceChildren(...(separate ? legend(labels, points) : []));
  find("plot").replaceChildren(...(points.length ? [plot(points, groups, separate)] : []));
}

function groupBy(points, name) {
  const groups = new Map();
  for (const row of points) groups.set(row[name], [...(groups.get(row[name]) ?? []), row]);
  return groups;
}

function hint(points, conditions) {
  if (points === 0) return "None of these results has both accuracies.";
  if (conditions > MOST_FRONTS) {
    return `These results are of ${conditions} different conditions: choose dataset, attack, norm, eps and steps to see a Pareto front.`;
  }
  return conditions === 1 ? "The line is the Pareto front." : "One Pareto front for each of the conditions.";
}

function conditionText(row) {
  if (row.attack === EVERY) return suiteText(row).replace("worst of", "each image under the worst of");
  return [row.attack, reach(row), ...(row.steps === null ? [] : [`${row.steps} steps`]), row.dataset, ...ofEncoder(row)].join(", ");
}

function ofEncoder(row) {
  return row.entry.kind === "encoder" ? [row.kind] : [];
}

function suiteText(row) {
  const number = (suites.get(suiteOf(row.entry)) ?? []).length;
  return [`worst of ${number} attack${number === 1 ? "" : "s"}`, `knows ${row.knowledge}`, row.dataset, ...ofEncoder(row)].join(", ");
}

function legend(labels, points) {
  const marks = labels.map((text, i) => make("span", { class: `c${i}` }, make("i"), make("b", { title: text }, text)));
  const doubtful = make("span", {}, make("i", { class: "hollow" }), make("b", {}, "unreliable or with problems"));
  return points.every((row) => row.trusted) ? marks : [...marks, doubtful];
}

function plot(points, groups, separate) {
  const width = Math.max(280, find("plot").clientWidth);
  const height = Math.round(Math.min(460, Math.max(280, 0.55 * width)));
  const frame = { left: 52, right: width - 16, top: 14, bottom: height - 46 };
  const levels = [...new Set(points.map((row) => row.clean.chance).filter((each) => each !== null))];
  const chance = levels.length <= MOST_FRONTS ? levels : [];
  const [left, right] = range([...points.flatMap((row) => [row.cleanAccuracy, row.cleanAtLeast]), ...chance]);
  const [low, high] = range([...points.flatMap((row) => [row.robustAccuracy, row.robustAtLeast]), ...chance]);
  const x = (value) => frame.left + ((value - left) / (right - left)) * (frame.right - frame.left);
  const y = (value) => frame.bottom - ((value - low) / (high - low)) * (frame.bottom - frame.top);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Clean against robust accuracy; arrow keys go from model to model" });
  drawAxes(svg, { width, height, frame, x, y, left, right, low, high });
  for (const level of chance) drawChance(svg, frame, x(level), y(level), level);
  const marks = [];
  const small = points.length > 400;
  [...groups.values()].forEach((list, i) => {
    const color = separate ? `c${i}` : "many";
    const front = separate ? paretoFront(list) : [];
    if (front.length) {
      const steps = front.map((row, k) => `${k ? `V${y(row.robustAtLeast)}` : ""}H${x(row.cleanAtLeast)}`).join("");
      svg.append(draw("path", { class: `front ${color}`, d: `M${frame.left},${y(front[0].robustAtLeast)}${steps}V${frame.bottom}` }));
    }
    const onFront = new Set(front);
    for (const row of list) marks.push({ row, element: point(row, onFront.has(row), color, x, y, small) });
  });
  marks.sort((one, other) => one.row.cleanAccuracy - other.row.cleanAccuracy);
  svg.append(...marks.filter(({ element }) => !element.classList.contains("on-front")).map(({ element }) => element));
  svg.append(...marks.filter(({ element }) => element.classList.contains("on-front")).map(({ element }) => element));
  const area = make("div", {}, svg);
  listen(area, marks);
  return area;
}

function drawAxes(svg, { width, height, frame, x, y, left, right, low, high }) {
  const ticks = (from, to) => {
    const step = to - from > 0.55 ? 0.2 : to - from > 0.25 ? 0.1 : 0.05;
    const first = Math.ceil(from / step - 1e-9);
    return Array.from({ length: Math.floor(to / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
  };
  for (const tick of ticks(left, right)) {
    svg.append(draw("line", { class: "grid", x1: x(tick), x2: x(tick), y1: frame.top, y2: frame.bottom }));
    svg.append(draw("text", { x: x(tick), y: frame.bottom + 18, "text-anchor": "middle" }, `${Math.round(100 * tick)}%`));
  }
  for (const tick of ticks(low, high)) {
    svg.append(draw("line", { class: "grid", x1: frame.left, x2: frame.right, y1: y(tick), y2: y(tick) }));
    svg.append(draw("text", { x: frame.left - 8, y: y(tick) + 4, "text-anchor": "end" }, `${Math.round(100 * tick)}%`));
  }
  const [from, to] = [Math.max(left, low), Math.min(right, high)];
  if (from < to) svg.append(draw("line", { class: "diagonal", x1: x(from), y1: y(from), x2: x(to), y2: y(to) }));
  const middle = (frame.top + frame.bottom) / 2;
  svg.append(draw("text", { class: "axis", x: (frame.left + frame.right) / 2, y: height - 8, "text-anchor": "middle" }, "clean accuracy"));
  svg.append(draw("text", { class: "axis", transform: `translate(13 ${middle}) rotate(-90)`, "text-anchor": "middle" }, "robust accuracy"));
}

// What guessing would reach: below and left of these lines a model has learnt nothing.
function drawChance(svg, frame, x, y, level) {
  svg.append(draw("path", { class: "chance", d: `M${x},${frame.top}V${frame.bottom}M${frame.left},${y}H${frame.right}` }));
  svg.append(draw("text", { class: "chance", x: frame.right - 4, y: y - 5, "text-anchor": "end" }, `chance ${percent(level)}`));
}

function point(row, onFront, color, x, y, small) {
  const [cx, cy] = [x(row.cleanAccuracy), y(row.robustAccuracy)];
  const classes = ["point", color, ...(onFront ? ["on-front"] : []), ...(row.trusted ? [] : ["doubtful"])];
  const radius = onFront ? 6 : small ? 3 : 5;
  const whiskers = [row.clean.interval, row.robust.interval].every(Boolean)
    ? `M${x(row.clean.interval[0])},${cy}H${x(row.clean.interval[1])}M${cx},${y(row.robust.interval[0])}V${y(row.robust.interval[1])}`
    : "";
  const attributes = { class: classes.join(" "), href: address(row.model), target: "_blank", rel: "noopener noreferrer", tabindex: -1, "aria-label": describe(row).join(", ") };
  return draw("a", attributes, draw("path", { d: whiskers }), draw("circle", { cx, cy, r: radius }));
}

function describe(row) {
  const lines = [row.model, `clean ${percent(row.cleanAccuracy)}, robust ${percent(row.robustAccuracy)}`, row.attack === EVERY ? EVERY : `${row.attack}, ${reach(row)}`, ...ofEncoder(row)];
  return row.trusted ? lines : [...lines, row.problems.length ? "has problems" : "unreliable", ...row.entry.failed_checks];
}

// Of an element around the svg: a svg that listens to focus is a stop for the Tab key itself in Chromium.
// The Tab key stops at one point; arrow keys go on from there in the order of clean accuracy.
function listen(area, marks) {
  const index = new Map(marks.map(({ element }, i) => [element, i]));
  const under = (event) => event.target.closest(".point");
  marks[0].element.setAttribute("tabindex", 0);
  const tell = (element) => {
    const tip = find("tip");
    tip.replaceChildren(...describe(marks[index.get(element)].row).map((line) => make("span", {}, line)));
    const [box, panel] = [element.querySelector("circle").getBoundingClientRect(), tip.parentElement.getBoundingClientRect()];
    const left = Math.min(box.right + 8, panel.right - tip.offsetWidth - 8) - panel.left;
    const above = box.top - panel.top - tip.offsetHeight - 8;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${above > 0 ? above : box.bottom - panel.top + 8}px`;
  };
  const hush = () => find("tip").replaceChildren();
  area.addEventListener("pointerover", (event) => under(event) && tell(under(event)));
  area.addEventListener("pointerout", hush);
  area.addEventListener("focusin", (event) => {
    area.querySelector("[tabindex='0']").setAttribute("tabindex", -1);
    under(event).setAttribute("tabindex", 0);
    tell(under(event));
  });
  area.addEventListener("focusout", hush);
  area.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (event.key === "Escape") hush();
    if (!step) return;
    event.preventDefault();
    marks[Math.min(marks.length - 1, Math.max(0, index.get(under(event)) + step))].element.focus();
  });
}

// ---- the whole ----

function show() {
  shown = sortRows(filtered());
  start = 0;
  const models = new Set(shown.map((row) => row.model)).size;
  const these = models === allModels ? `${models}` : `${models} of ${allModels}`;
  find("summary").textContent = `${shown.length} of ${rows.length} results, of ${these} model${allModels === 1 ? "" : "s"}`;
  showTable();
  showPlot();
}

function showFigures() {
  const figures = [
    ["models", data.models],
    ["results", entries.length],
    ["datasets", new Set(entries.map((each) => each.dataset)).size],
    ["attacks", new Set(entries.map((each) => each.attack).filter((each) => each !== "clean")).size],
    ["collected", data.collected.slice(0, 10)],
  ];
  find("figures").append(...figures.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))));
}

function showLeftOut() {
  const number = data.left_out.length;
  find("left-out").hidden = number === 0;
  find("left-out-title").textContent = `${number} left out`;
  const items = data.left_out.map(({ model, reason }) => make("li", {}, link(model, address(model)), `: ${reason}`));
  find("left-out-list").append(...items);
}

find("filters").addEventListener("submit", (event) => event.preventDefault());
find("search").addEventListener("input", show);
find("show-all").addEventListener("click", () => {
  find("filters").reset();
  show();
});
find("previous").addEventListener("click", () => turn(-PAGE));
find("next").addEventListener("click", () => turn(PAGE));
let width = find("plot").clientWidth;
window.addEventListener("resize", () => {
  if (find("plot").clientWidth === width) return;
  width = find("plot").clientWidth;
  showPlot();
});
showFigures();
showLeftOut();
find("source").textContent = `Collected ${data.collected.slice(0, 10)} from ${data.source} on ${data.endpoint}.`;
chooseCommonCondition();
show();
