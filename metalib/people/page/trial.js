// A trial: blank, fixation, image, mask, and a grid of answers. Times are measured.
//
// Every step begins and ends with a frame of the screen, at the one that is nearest to the time that
// was asked for. The times of frames are those that `requestAnimationFrame` gives.

class MetamerTrial {
  static info = {
    name: "metamer-trial",
    version: "1.0.0",
    parameters: {
      file: { type: "STRING" },
      size: { type: "INT" },
      durations: { type: "OBJECT" },     // milliseconds of blank, fixation, image, mask
      answers: { type: "COMPLEX", array: true }, // name, icon, key
      right: { type: "STRING" },
      feedback: { type: "BOOL", default: false },
      progress: { type: "STRING", default: "" },
      seed: { type: "INT", default: 0 }, // of the mask
    },
    data: {
      object_response: { type: "STRING" }, rt: { type: "FLOAT" }, by: { type: "STRING" },
      blank_ms: { type: "FLOAT" }, fixation_ms: { type: "FLOAT" }, image_ms: { type: "FLOAT" },
      mask_ms: { type: "FLOAT" }, frame_ms: { type: "FLOAT" }, longest_frame_ms: { type: "FLOAT" },
      lost_focus: { type: "BOOL" },
    },
  };

  constructor(jsPsych) {
    this.jsPsych = jsPsych;
  }

  trial(display, trial) {
    display.innerHTML = `
      <p class="progress">${trial.progress}</p>
      <div class="stage">
        <canvas width="${trial.size}" height="${trial.size}" role="img"
                aria-label="The image, shown for a moment"></canvas>
      </div>`;
    const canvas = display.querySelector("canvas");
    const picture = new Image();
    let lost = document.hidden;
    const blurred = () => { lost = true; };
    addEventListener("blur", blurred);
    document.addEventListener("visibilitychange", blurred);
    const forget = () => {
      removeEventListener("blur", blurred);
      document.removeEventListener("visibilitychange", blurred);
    };
    picture.onerror = () => { forget(); throw new Error(`${trial.file} cannot be shown`); };
    picture.onload = () => show(canvas, picture, trial, (times) => {
      ask(this.jsPsych, display, trial, (answer) => {
        forget();
        const end = () => this.jsPsych.finishTrial({ ...answer, ...times, lost_focus: lost });
        if (!trial.feedback) return end();
        const right = answer.object_response === trial.right;
        display.innerHTML = `<p class="feedback" role="status">${
          right ? "Right." : `It was: ${trial.right}.`}</p>`;
        this.jsPsych.pluginAPI.setTimeout(end, 700);
      });
    });
    picture.src = trial.file;
  }

  simulate(trial, mode, options, loaded) {
    const answers = trial.answers.map((each) => each.name);
    const planned = options.data?.object_response
      ?? this.jsPsych.randomization.sampleWithoutReplacement(answers, 1)[0];
    if (mode === "visual") {
      loaded();
      this.trial(this.jsPsych.getDisplayElement(), trial);
      const press = () => {
        const button = [...document.querySelectorAll(".answers button")]
          .find((each) => each.dataset.answer === planned);
        if (button) button.click(); else setTimeout(press, 20);
      };
      return press();
    }
    loaded();
    const times = Object.fromEntries(Object.entries(trial.durations).map(
      ([name, asked]) => [`${name}_ms`, asked]));
    const rt = 0.3 + this.jsPsych.randomization.sampleExponential(2);
    this.jsPsych.finishTrial({
      object_response: planned, by: "simulated", rt, ...times, frame_ms: 16.7,
      longest_frame_ms: 16.7, lost_focus: false, ...options.data });
  }
}

// Show the steps one after the other, and give their measured durations in milliseconds.
function show(canvas, picture, { size, durations, seed }, done) {
  const context = canvas.getContext("2d");
  const random = randomNumbers(seed);
  const clear = () => context.clearRect(0, 0, size, size);
  const steps = {
    blank: clear,
    fixation: () => {
      clear();
      context.fillStyle = "#222";
      const arm = size / 16, width = Math.max(2, size / 80);
      context.fillRect((size - width) / 2, size / 2 - arm, width, 2 * arm);
      context.fillRect(size / 2 - arm, (size - width) / 2, 2 * arm, width);
    },
    image: () => {
      clear();
      context.drawImage(picture, 0, 0, size, size);
    },
    mask: () => {
      const cell = Math.max(1, Math.round(size / 32));
      for (let top = 0; top < size; top += cell) {
        for (let left = 0; left < size; left += cell) {
          context.fillStyle = `rgb(${[0, 1, 2].map(() => Math.floor(256 * random())).join(" ")})`;
          context.fillRect(left, top, cell, cell);
        }
      }
    },
  };
  const names = Object.keys(steps).filter((name) => durations[name] > 0);
  const times = Object.fromEntries(Object.keys(steps).map((name) => [`${name}_ms`, 0]));
  const frames = [];
  let current = -1, onset = 0, last = 0;
  const frame = (now) => {
    if (last) frames.push(now - last);
    last = now;
    const typical = median(frames) || 0;
    if (current < 0 || now - onset > durations[names[current]] - typical / 2) {
      if (current >= 0) times[`${names[current]}_ms`] = now - onset;
      current += 1;
      onset = now;
      if (current === names.length) {
        clear();
        return done({ ...times, frame_ms: typical, longest_frame_ms: Math.max(0, ...frames) });
      }
      steps[names[current]]();
    }
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}

function median(numbers) {
  return [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
}

// Show the grid of answers, and give the one that is chosen: by mouse, touch, Tab and Enter, or its key.
function ask(jsPsych, display, { answers, progress }, done) {
  display.innerHTML = `
    <p class="progress">${progress}</p>
    <h1 id="question">What was it?</h1>
    <div class="answers" role="group" aria-labelledby="question" style="--columns: ${columns(answers.length)}">${answers.map((each) => `
      <button type="button" data-answer="${escaped(each.name)}" aria-keyshortcuts="${each.key}">
        ${each.icon ? `<img src="${each.icon}" alt="">` : ""}
        <span>${escaped(each.name)}</span> <kbd aria-hidden="true">${each.key}</kbd>
      </button>`).join("")}</div>`;
  const begun = performance.now();
  let chosen = false;
  const choose = (name, by) => {
    if (chosen) return;
    chosen = true;
    removeEventListener("keydown", pressed);
    done({ object_response: name, by, rt: (performance.now() - begun) / 1000 });
  };
  const pressed = (event) => {
    const answer = answers.find((each) => each.key === event.key.toLowerCase());
    if (answer && !event.ctrlKey && !event.altKey && !event.metaKey && !event.repeat) {
      event.preventDefault();
      choose(answer.name, "key");
    }
  };
  addEventListener("keydown", pressed);
  for (const button of display.querySelectorAll(".answers button")) {
    button.addEventListener("click", (event) => choose(
      button.dataset.answer, event.detail === 0 ? "key" : "pointer"));
  }
}

// Of the grid: four or five, where rows are full.
function columns(count) {
  return [5, 4, 3].find((each) => count % each === 0) ?? Math.min(count, 4);
}

function escaped(text) {
  return text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
}
