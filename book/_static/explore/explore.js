// The page "See a metamer emerge". Its data, EXPLORE, come with data.js; see book/explore.py.
(function () {
  "use strict";
  const $ = (id) => document.getElementById(id);
  const MEASURES = { pearson: ["Pearson", 4, ""], spearman: ["Spearman", 4, ""], snr_db: ["signal to noise", 1, " dB"] };
  const NAMES = { cct: "CCT", convnext: "ConvNeXt", resnet: "ResNet", vgg: "VGG" };
  const problem = (text) => { $("explore-problem").textContent = text; $("explore-problem").hidden = false; };

  if (typeof EXPLORE === "undefined") {
    problem("The pictures of this page are missing. Make them with: python book/explore.py");
    return;
  }
  if (typeof DecompressionStream === "undefined") {
    problem("This browser is too old for the pictures of this page; one of 2023 or later shows them.");
    return;
  }
  const data = EXPLORE, SIDE = 32, SIZE = 3 * SIDE * SIDE, last = data.evaluations.length - 1;
  const photographs = data.photographs.map((photo, number) => {
    const alike = data.photographs.filter((one) => one.label === photo.label);
    return alike.length > 1 ? `${photo.label} ${number + 1}` : photo.label;
  });

  // --- Words -------------------------------------------------------------------------------------
  const architecture = (name) => NAMES[data.networks[name].architecture] || data.networks[name].architecture;
  const named = (name) => `${architecture(name)} ${data.networks[name].training} ${data.networks[name].seed}`;
  const number = (measure, value) => value === null ? "not defined"
    : value.toFixed(MEASURES[measure][1]).replace("-", "−") + MEASURES[measure][2];
  const answer = (place) => place < 0 ? "nothing" : data.classes[place];
  const article = (word) => (/^[aeiou]/.test(word) ? "an " : "a ") + word;
  const mark = (good) => good ? "✓" : "✕";

  function element(tag, text, attributes) {
    const made = document.createElement(tag);
    if (text !== undefined && text !== null) made.textContent = text;
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    return made;
  }

  function fill(select, values, words) {
    const before = select.value;
    select.replaceChildren(...values.map((value, place) => element("option", words ? words(value, place) : value, { value })));
    if (values.map(String).includes(before)) select.value = before;
  }

  // --- Pictures ----------------------------------------------------------------------------------
  // Differences from picture to picture, modulo 256: [photograph][picture] -> bytes.
  async function unpack(text, frames, before) {
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    const changes = new Uint8Array(await new Response(stream).arrayBuffer());
    return data.photographs.map((_, photo) => {
      let picture = before ? before[photo] : new Uint8Array(SIZE);
      return Array.from({ length: frames }, (_, frame) => {
        const offset = (photo * frames + frame) * SIZE;
        picture = picture.map((value, place) => value + changes[offset + place]);  // bytes wrap
        return picture;
      });
    });
  }

  const kept = {};
  let references, starts;
  function pictures(network, stage) {  // of a run, the start first; or of its end only
    const key = `${network} ${stage}`;
    if (!kept[key]) {
      kept[key] = key in data.runs
        ? unpack(data.runs[key].pixels, last, starts).then((all) => all.map((some, photo) => [starts[photo], ...some]))
        : unpack(data.ends[key], 1, starts);
    }
    return kept[key];
  }

  function paint(canvas, bytes) {
    const context = canvas.getContext("2d"), image = context.createImageData(SIDE, SIDE);
    for (let pixel = 0; pixel < SIDE * SIDE; pixel++) {
      image.data.set([bytes[3 * pixel], bytes[3 * pixel + 1], bytes[3 * pixel + 2], 255], 4 * pixel);
    }
    context.putImageData(image, 0, 0);
  }

  // --- A metamer emerges -------------------------------------------------------------------------
  const slider = $("emerge-slider"), play = $("emerge-play");
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
  let timer = null;

  async function showRun() {
    const network = $("emerge-network").value, stage = $("emerge-stage").value;
    const photo = Number($("emerge-photograph").value), frame = Number(slider.value);
    const run = data.runs[`${network} ${stage}`], marks = data.thresholds[`${network} ${stage}`];
    const all = await pictures(network, stage);
    if (network !== $("emerge-network").value || stage !== $("emerge-stage").value
        || photo !== Number($("emerge-photograph").value) || frame !== Number(slider.value)) return;
    const step = data.evaluations[frame], passed = run.passed[photo][frame] === 1;
    paint($("emerge-reference"), references[photo]);
    paint($("emerge-image"), all[photo][frame]);
    const count = `${step} ${step === 1 ? "evaluation" : "evaluations"}`;
    $("emerge-step").textContent = `${step} of ${data.evaluations[last]} evaluations`;
    slider.setAttribute("aria-valuetext", count);
    $("emerge-caption").textContent = frame ? `image after ${count}` : "the noise it starts from";
    $("emerge-reference").setAttribute("aria-label", `The photograph of ${article(data.photographs[photo].label)}`);
    $("emerge-image").setAttribute("aria-label", `The image after ${count}, for ${named(network)} at ${stage}: ${passed ? "a metamer" : "no metamer yet"}`);
    const missing = showMeasures(run, marks, photo, frame);
    $("emerge-verdict").replaceChildren(
      element("span", passed ? "✓ passes: a metamer. " : "✕ does not pass. ", { class: `strong ${passed ? "good" : "bad"}` }),
      `After ${count}, ${passed ? "all measures reach their marks" : `missing: ${missing.join(", ")}`}.`);
    showCurve(run, marks, photo, frame);
  }

  function showMeasures(run, marks, photo, frame) {
    const rows = [], missing = [];
    const add = (name, now, wanted, good) => {
      const row = element("tr");
      row.append(element("th", name, { scope: "row" }), element("td", now), element("td", wanted),
        good === null ? element("td", "not asked", { class: "soft" })
          : element("td", `${mark(good)} ${good ? "yes" : "no"}`, { class: good ? "good" : "bad" }));
      rows.push(row);
      if (good === false) missing.push(name);
    };
    for (const measure of Object.keys(MEASURES)) {
      const value = run[measure][photo][frame], asked = measure in marks;
      add(MEASURES[measure][0], number(measure, value), asked ? number(measure, marks[measure]) : "none",
        asked ? value !== null && value >= marks[measure] : null);
    }
    const said = run.said[photo][frame], wanted = run.reference_said[photo];
    add("answer", answer(said), answer(wanted), said === wanted && said >= 0);
    $("emerge-measures").replaceChildren(...rows);
    return missing;
  }

  function showCurve(run, marks, photo, frame) {
    const box = $("emerge-chart"), measure = $("emerge-measure").value, [name, , unit] = MEASURES[measure];
    const values = run[measure][photo], wanted = marks[measure], finite = values.filter((value) => value !== null);
    const width = Math.max(200, box.clientWidth), height = 176, left = 44, right = 10, top = 20, bottom = 34;
    const reach = [...finite, ...(wanted === undefined ? [] : [wanted])];
    let low = Math.min(...reach), high = Math.max(...reach);
    if (!(high > low)) [low, high] = [low - 1, high + 1];
    const pad = 0.06 * (high - low);
    const x = (place) => left + (width - left - right) * place / last;
    const y = (value) => top + (height - top - bottom) * (high + pad - value) / (high - low + 2 * pad);
    const points = values.flatMap((value, place) => value === null ? [] : [`${x(place).toFixed(1)},${y(value).toFixed(1)}`]);
    const tick = (value) => `<text x="${left - 6}" y="${y(value) + 4}" text-anchor="end">${number(measure, value).replace(unit, "").replace(/(\.\d\d)\d+$/, "$1")}</text>`;
    const steps = data.evaluations.map((step, place) => (last > 6 && width < 340 && place % 2 && place !== last) ? ""
      : `<text x="${x(place)}" y="${height - bottom + 16}" text-anchor="middle">${step}</text>`).join("");
    const line = wanted === undefined ? "" : `<path class="mark" d="M${left} ${y(wanted)}H${width - right}"/>
      <text class="mark-text" x="${width - right}" y="${y(wanted) + (y(wanted) < top + 40 ? 15 : -6)}" text-anchor="end">pass mark ${number(measure, wanted)}</text>`;
    const now = values[frame] === null ? "" : `<circle class="now" cx="${x(frame)}" cy="${y(values[frame])}" r="5"/>`;
    box.innerHTML = `<svg viewBox="0 0 ${width} ${height}" aria-hidden="true">
      <text x="${left}" y="11">${name}${unit ? ", dB" : " correlation"}</text>
      <path class="axis" d="M${left} ${top}V${height - bottom}H${width - right}"/>${tick(low)}${tick(high)}${steps}
      <text x="${(left + width - right) / 2}" y="${height - 3}" text-anchor="middle">gradient evaluations</text>
      ${line}<polyline class="curve" points="${points.join(" ")}"/>
      ${points.map((point) => `<circle class="dot" cx="${point.split(",")[0]}" cy="${point.split(",")[1]}" r="2.5"/>`).join("")}${now}</svg>`;
    box.setAttribute("aria-label", `${name} over the evaluations: from ${number(measure, values[0])} to ${number(measure, values[last])}; `
      + (wanted === undefined ? "not asked for at this stage" : `pass mark ${number(measure, wanted)}`));
  }

  function move(frame) {
    slider.value = frame;
    return showRun();
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = calm.matches ? "Next" : "Play";
    $("emerge-verdict").setAttribute("aria-live", "polite");
  }

  function start() {
    if (calm.matches) return move(Number(slider.value) === last ? 0 : Number(slider.value) + 1);
    if (timer !== null) return stop();
    $("emerge-verdict").setAttribute("aria-live", "off");  // said once, at the end
    if (Number(slider.value) === last) move(0);
    play.textContent = "Pause";
    timer = setInterval(() => {
      if (Number(slider.value) + 1 >= last) stop();
      move(Number(slider.value) + 1);
    }, 500);
  }

  function chooseNetwork() {
    const network = $("emerge-network").value;
    fill($("emerge-stage"), data.networks[network].stages.filter((stage) => `${network} ${stage}` in data.runs));
    return showRun();
  }

  function firstStage() {  // one where the way from noise is seen
    const middle = data.stages[Math.floor(data.stages.length / 2)];
    fill($("emerge-stage"), [middle]);
  }

  // --- What another network makes of it ----------------------------------------------------------
  let chosen = { row: Math.max(0, data.generators.indexOf(data.watched[0])), column: 0 };
  const look = () => {
    const stage = $("transfer-stage").value;
    return { stage, of: (row, column, photo) => {
      const seen = data.shown[stage][column], said = seen.said[row][photo];
      return { said, wanted: seen.reference_said[photo], same: said >= 0 && said === seen.reference_said[photo],
        passed: seen.passed[row][photo] === 1, pearson: seen.pearson[row][photo], snr_db: seen.snr_db[row][photo],
        spearman: seen.spearman[row][photo] };
    } };
  };
  const counted = (row, column, what) => {
    const seen = look();
    return photographs.filter((_, photo) => seen.of(row, column, photo)[what]).length;
  };
  const level = (count) => Math.round(4 * count / photographs.length);

  function heads(key, colgroup, words) {  // one row of column heads, equal neighbours joined
    const row = element("tr"), runs = [];
    for (const name of data.observers) {
      const group = key(name), before = runs[runs.length - 1];
      if (before && before.group === group) before.names.push(name);
      else runs.push({ group, names: [name] });
    }
    for (const { names } of runs) {
      row.append(element("th", words(names[0]), { scope: colgroup ? "colgroup" : "col", colspan: names.length,
        class: opens(data.observers.indexOf(names[0])) ? "group" : "" }));
    }
    return row;
  }
  const opens = (column) => column > 0 && architecture(data.observers[column]) !== architecture(data.observers[column - 1]);

  function drawMatrix() {
    const what = $("transfer-count").value, table = $("transfer-matrix"), total = photographs.length;
    const head = element("thead"), body = element("tbody");
    const corner = element("th", "made for ↓   seen by →", { rowspan: 3, scope: "col" });
    const about = (name) => data.networks[name];
    head.append(heads(architecture, true, architecture),
      heads((name) => `${architecture(name)} ${about(name).training}`, true, (name) => about(name).training),
      heads((name) => name, false, (name) => about(name).seed));
    head.firstChild.prepend(corner);
    data.generators.forEach((generator, row) => {
      const line = element("tr");
      line.append(element("th", named(generator), { scope: "row" }));
      data.observers.forEach((observer, column) => {
        const count = counted(row, column, what), cell = element("td", null, opens(column) ? { class: "group" } : {});
        const own = generator === observer;
        cell.append(element("button", count, { type: "button", class: `level${level(count)}${own ? " own" : ""}`,
          "data-row": row, "data-column": column,
          "aria-label": `made for ${named(generator)}, seen by ${own ? "itself" : named(observer)}: ${count} of ${total}` }));
        line.append(cell);
      });
      body.append(line);
    });
    table.replaceChildren(element("caption", "Metamers counted, by generator and observer", { class: "explore-hidden" }), head, body);
    $("transfer-legend").replaceChildren(
      ...photographs.concat("").map((_, count) => element("span", count, { class: `level${level(count)}` })),
      ` of ${total} metamers; the digit above a column is the seed of its network`);
    markCell(false);
  }

  const button = (row, column) => document.querySelector(`#transfer-matrix [data-row="${row}"][data-column="${column}"]`);
  function markCell(focus) {
    for (const one of document.querySelectorAll("#transfer-matrix button")) {
      const here = one === button(chosen.row, chosen.column);
      one.setAttribute("aria-pressed", here);
      one.tabIndex = here ? 0 : -1;
      if (here && focus) one.focus();
    }
    return showCell();
  }

  function related(a, b) {
    const same = (key) => data.networks[a][key] === data.networks[b][key];
    if (a === b) return "the same network";
    if (same("architecture")) return same("training") ? "another seed" : "another training";
    return same("training") ? "another architecture" : "another architecture and training";
  }

  async function showCell() {
    const { row, column } = chosen, { stage, of } = look(), total = photographs.length;
    const generator = data.generators[row], observer = data.observers[column], marks = data.thresholds[`${observer} ${stage}`];
    const all = await pictures(generator, stage);
    if (row !== chosen.row || column !== chosen.column || stage !== $("transfer-stage").value) return;
    $("transfer-summary").replaceChildren(
      element("span", `Made for ${named(generator)} at ${stage}, seen by ${named(observer)} (${related(generator, observer)}): `, { class: "strong" }),
      `${counted(row, column, "same")} of ${total} get the photograph's answer, ${counted(row, column, "passed")} of ${total} pass. `
      + `Its pass marks: ${Object.keys(marks).map((measure) => `${MEASURES[measure][0]} ${number(measure, marks[measure])}`).join(", ")}.`);
    const home = data.observers.indexOf(generator);
    $("transfer-cards").replaceChildren(...photographs.map((photo, place) => {
      const seen = of(row, column, place), card = element("li"), pair = element("div", null, { class: "pair" });
      const picture = (label, bytes, said) => {
        const box = element("div"), canvas = element("canvas", null, { width: SIDE, height: SIDE, role: "img", "aria-label": label });
        paint(canvas, bytes);
        box.append(canvas, said);
        return box;
      };
      pair.append(
        picture(`The photograph of ${article(data.photographs[place].label)}`, references[place],
          element("span", answer(seen.wanted))),
        picture(`Its metamer for ${named(generator)} at ${stage}`, all[place][all[place].length - 1],
          element("span", `${mark(seen.same)} ${answer(seen.said)}`, { class: seen.same ? "good" : "bad" })));
      card.append(pair, element("p", seen.passed ? "✓ passes" : "✕ does not pass", { class: `strong ${seen.passed ? "good" : "bad"}` }));
      for (const measure of Object.keys(MEASURES).filter((one) => one in marks)) {
        const reached = seen[measure] !== null && seen[measure] >= marks[measure];
        card.append(element("p", `${mark(reached)} ${MEASURES[measure][0]} ${number(measure, seen[measure])}`));
      }
      if (home >= 0 && data.shown[stage][home].passed[row][place] !== 1) {
        card.append(element("p", "It does not pass in the network that it was made for.", { class: "soft" }));
      }
      return card;
    }));
  }

  function choose(row, column) {
    chosen = { row: Math.min(Math.max(row, 0), data.generators.length - 1),
      column: Math.min(Math.max(column, 0), data.observers.length - 1) };
    return markCell(true);
  }

  function onKey(event) {
    const { row, column } = chosen, far = data.observers.length - 1;
    const goes = { ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], ArrowUp: [row - 1, column],
      ArrowDown: [row + 1, column], Home: [row, 0], End: [row, far] }[event.key];
    if (!goes || event.target.tagName !== "BUTTON") return;
    event.preventDefault();
    choose(...goes);
  }

  // --- Begin -------------------------------------------------------------------------------------
  async function begin() {
    references = (await unpack(data.references, 1)).map((one) => one[0]);
    starts = (await unpack(data.starts, 1)).map((one) => one[0]);
    fill($("emerge-network"), data.watched, named);
    fill($("emerge-photograph"), photographs.map((_, place) => place), (place) => photographs[place]);
    slider.max = last;
    slider.value = Math.round(last / 2);
    for (const [id, then] of [["emerge-network", chooseNetwork], ["emerge-stage", showRun], ["emerge-photograph", showRun], ["emerge-measure", showRun]]) {
      $(id).addEventListener("change", then);
    }
    slider.addEventListener("input", () => { if (timer !== null) stop(); showRun(); });
    play.addEventListener("click", start);
    calm.addEventListener("change", stop);
    new ResizeObserver(() => showRun()).observe($("emerge-chart"));
    fill($("transfer-stage"), data.stages);
    $("transfer-stage").value = data.stages[Math.floor(data.stages.length / 2)];
    $("transfer-stage").addEventListener("change", drawMatrix);
    $("transfer-count").addEventListener("change", drawMatrix);
    $("transfer-matrix").addEventListener("click", ({ target }) => {
      if (target.dataset.row) choose(Number(target.dataset.row), Number(target.dataset.column));
    });
    $("transfer-matrix").addEventListener("keydown", onKey);
    const counts = { watched: data.watched.length, stages: Object.keys(data.runs).length / data.watched.length,
      photographs: photographs.length, evaluations: data.evaluations[last], kept: last, generators: data.generators.length,
      observers: data.observers.length, transferred: data.stages.length, pairs: data.pairs.toLocaleString("en") };
    for (const place of document.querySelectorAll("[data-count]")) place.textContent = counts[place.dataset.count];
    stop();
    firstStage();
    await chooseNetwork();
    await drawMatrix();
  }
  begin().catch((error) => { problem(`The pictures of this page could not be drawn: ${error.message}`); throw error; });
})();
