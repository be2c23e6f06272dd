// The test from its first page to its last. What is answered is kept in the window's session storage
// after each trial, so that a reload loses nothing, and leaves the browser only at the end.

const COLUMNS = [
  "subj", "session", "trial", "rt", "object_response", "category", "condition", "imagename", // as in
  "kind", "generator", "stage", "seed", "sha256", "replaced", "by", "lost_focus",          // model-vs-human
  "blank_ms", "fixation_ms", "image_ms", "mask_ms", "frame_ms", "longest_frame_ms",
  "asked_blank_ms", "asked_fixation_ms", "asked_image_ms", "asked_mask_ms", "size", "upscaling",
  "experiment", "participant", "reloads", "trials", "screening", "window", "screen", "pixel_ratio", "browser",
  "age", "gender", "metalib"];

(function run() {
  const experiment = window.EXPERIMENT;
  const { design, pages } = experiment;
  const place = `metamers-${experiment.id}`;
  const simulated = new URLSearchParams(location.search).get("simulate");
  let kept = simulated ? null : recall(place);
  let saved = false;

  const asked = window.HOOKS.participant();
  const state = kept ?? {
    participant: /^\d{1,9}$/.test(asked ?? "") ? Number(asked) : Math.floor(1e9 * Math.random()),
    session: Math.random().toString(16).slice(2, 10).padEnd(8, "0"),
    rows: [], reloads: 0, about: {},
  };
  if (kept) state.reloads += 1;
  const all = trialsOf(experiment, state.participant);
  const left = () => all.filter((trial) => trial.trial > state.rows.length);

  const jsPsych = initJsPsych({ display_element: "experiment" });
  addEventListener("beforeunload", (event) => {
    if (state.rows.length && !saved) event.preventDefault();
  });

  const page = (html, choices, more = {}) => ({
    type: jsPsychHtmlButtonResponse, stimulus: `<div class="page">${html}</div>`, choices,
    simulation_options: { data: { response: 0 } }, ...more });

  const timeline = [];
  if (kept) {
    timeline.push(page(
      `<h1>The page was loaded again</h1><p>${state.rows.length} of ${all.length} answers are kept.</p>`,
      ["Go on", "Start again"], { on_finish: ({ response }) => {
        if (response === 1) { forget(place); saved = true; location.reload(); }
      } }));
  }
  timeline.push({
    type: jsPsychPreload, images: [...new Set([...left().map((trial) => trial.file),
      ...experiment.classes.map((each) => each.icon).filter(Boolean)])],
    message: "<p>The images are being loaded.</p>", show_detailed_errors: true,
    error_message: "<p>Some images could not be loaded. Please load the page again.</p>" });
  if (!kept) {
    timeline.push(page(pages.consent, ["I agree", "I do not agree"], { on_finish: ({ response }) => {
      if (response === 1) {
        jsPsych.abortExperiment(`<div class="page"><h1>Thank you</h1>
          <p>You have not taken part, and nothing was recorded.</p></div>`);
      }
    } }));
    timeline.push(page(`<h1>Flickering images</h1>
      <p>Images appear for a moment and are followed by patterns of coloured noise.
      Do not take part if flicker may harm you, as in photosensitive epilepsy.</p>`, ["Go on"]));
    if (design.demographics) timeline.push(demographics(state));
  }
  if (design.fullscreen) {
    timeline.push({ type: jsPsychFullscreen, fullscreen_mode: true, button_label: "Full screen",
      message: `<div class="page"><p>The test fills the screen. Escape leaves it at any time.</p></div>` });
  }
  if (!kept) timeline.push(page(pages.instructions, ["Begin"]));

  const isMain = (trial) => ["test", "catch"].includes(trial.kind);
  const main = all.filter(isMain);
  const pauses = new Set(Array.from({ length: design.breaks }, (_, k) =>
    main[Math.round((k + 1) * main.length / (design.breaks + 1)) - 1].trial));
  for (const kind of ["practice", "screening"]) {
    const trials = left().filter((trial) => trial.kind === kind);
    if (trials.length && kind === "screening") {
      timeline.push(page("<p>Now without being told whether you are right.</p>", ["Go on"]));
    }
    timeline.push(...trials.map(asTrial));
  }
  timeline.push({
    conditional_function: passedScreening,
    timeline: [
      page(`<p>Now the test itself: ${main.length} images. Some are hard to make out; then guess.</p>`, ["Begin"]),
      ...left().filter(isMain).flatMap((trial) => [asTrial(trial), ...(
        pauses.has(trial.trial) && trial !== main.at(-1) ? [page("<p>You can take a break here.</p>", ["Go on"])] : [])]),
    ],
  });

  function asTrial(trial) {
    const right = rightAnswer(experiment, trial);
    return {
      type: MetamerTrial, file: trial.file, size: design.size, durations: design.durations,
      answers: experiment.classes, right, feedback: trial.kind === "practice",
      seed: state.participant + trial.trial, progress: `${trial.trial} of ${all.length}`,
      simulation_options: { data: answerFor(trial, right) },
      on_finish: (answer) => {
        state.rows.push({ ...trial, category: right, ...chosen(answer) });
        keep(place, state);
      },
    };
  }

  // Answers of a simulation: right with the probability that the address names, as ?simulate=data-only&right=.8
  function answerFor(trial, right) {
    const share = new URLSearchParams(location.search).get("right");
    if (share === null) return {};
    const random = randomNumbers(1e6 * state.participant + trial.trial);
    const others = experiment.classes.map((each) => each.name).filter((name) => name !== right);
    return { object_response: random() < Number(share) ? right : others[Math.floor(random() * others.length)] };
  }

  function chosen(answer) {
    return Object.fromEntries(COLUMNS.filter((name) => name in answer).map((name) => [name, answer[name]]));
  }

  function passedScreening() {
    const rows = state.rows.filter((row) => row.kind === "screening");
    return rows.filter((row) => row.object_response === row.category).length >= (rows.length ? design.pass_mark : 0);
  }

  function table() {
    const common = {
      subj: `participant-${state.participant}`, session: state.session, participant: state.participant,
      reloads: state.reloads, trials: all.length, experiment: experiment.id, metalib: experiment.metalib,
      screening: passedScreening() ? "passed" : "failed", size: design.size, upscaling: design.upscaling,
      window: `${innerWidth}x${innerHeight}`, screen: `${screen.width}x${screen.height}`,
      pixel_ratio: devicePixelRatio, browser: browser(), ...state.about,
      ...Object.fromEntries(Object.entries(design.durations).map(([name, asked]) => [`asked_${name}_ms`, asked])),
    };
    const lines = state.rows.map((row) => COLUMNS.map((name) => cell({ ...row, ...common }[name])).join(","));
    return [COLUMNS.join(","), ...lines].join("\n") + "\n";
  }

  function last() {
    const csv = table(), name = `metamers-${experiment.id}-${state.session}.csv`;
    if (document.fullscreenElement) document.exitFullscreen();
    const element = jsPsych.getDisplayElement();
    element.innerHTML = `<div class="page">${pages.debriefing}
      ${passedScreening() ? "" : "<p>The test ended early, after the images that come before it.</p>"}
      <p><button type="button" id="save">Save the answers</button></p><p id="said" role="status"></p></div>`;
    window.ANSWERS = csv;
    element.querySelector("#save").addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([csv], { type: "text/csv" }));
      link.download = name;
      link.click();
      saved = true;
      forget(place);
      element.querySelector("#said").textContent = `Saved as ${name}. You may close the page.`;
    });
    if (window.HOOKS.send) {
      Promise.resolve(window.HOOKS.send(csv, name)).then(
        () => { saved = true; forget(place); },
        (error) => { element.querySelector("#said").textContent =
          `The answers could not be sent (${error}). Please save them.`; });
    }
  }

  const going = simulated ? jsPsych.simulate(timeline, simulated) : jsPsych.run(timeline);
  going.then(() => { if (state.rows.length) last(); });
})();

function demographics(state) {
  return {
    type: jsPsychHtmlButtonResponse, choices: ["Go on"],
    stimulus: `<div class="page"><h1>About you</h1><p>Both may be left empty.</p>
      <p><label>Age in years <input id="age" inputmode="numeric" maxlength="3"></label></p>
      <p><label>Gender <input id="gender" maxlength="40"></label></p></div>`,
    on_load: () => {
      for (const name of ["age", "gender"]) {
        document.getElementById(name).addEventListener("input", (event) => { state.about[name] = event.target.value; });
      }
    },
  };
}

function cell(value) {
  if (value === undefined || value === null) return "";
  const text = typeof value === "number" && !Number.isInteger(value) ? value.toFixed(4) : String(value);
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function browser() {
  const [name, version] = navigator.userAgent.match(/(Firefox|Edg|OPR|Chrome|Version)\/(\d+)/)?.slice(1) ?? ["unknown", ""];
  return `${name === "Version" ? "Safari" : name} ${version}`.trim();
}

function keep(place, state) {
  try { sessionStorage.setItem(place, JSON.stringify(state)); } catch { /* private window: a reload loses the session */ }
}

function recall(place) {
  try { return JSON.parse(sessionStorage.getItem(place)); } catch { return null; }
}

function forget(place) {
  try { sessionStorage.removeItem(place); } catch { /* nothing was kept */ }
}
