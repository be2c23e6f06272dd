// Which images a participant sees, in which condition and order: a function of a number alone.

// Random numbers in [0, 1) from a whole number (mulberry32).
function randomNumbers(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffled(list, random) {
  const copy = [...list];
  for (let k = copy.length - 1; k > 0; k--) {
    const other = Math.floor(random() * (k + 1));
    [copy[k], copy[other]] = [copy[other], copy[k]];
  }
  return copy;
}

// 64-bit FNV-1a of a text as UTF-8, in hexadecimal digits.
function hashed(text) {
  let value = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(text)) {
    value = BigInt.asUintN(64, (value ^ BigInt(byte)) * 0x100000001b3n);
  }
  return value.toString(16).padStart(16, "0");
}

// The right answer of an image, which the page holds as a hash only.
function rightAnswer(experiment, image) {
  return experiment.classes.map((each) => each.name).find(
    (name) => hashed(`${experiment.id}:${image.imagename}:${name}`) === image.answer);
}

// The trials of a participant. Each reference is shown once; its condition moves on by one from
// participant to participant, so that as many participants as there are conditions make a square.
function trialsOf(experiment, participant) {
  const random = randomNumbers(participant);
  const { design, conditions, references, natural, icons } = experiment;
  const count = design.trials || references.length;
  const chosen = count < references.length
    ? shuffled(references.map((_, k) => k), random).slice(0, count).sort((a, b) => a - b)
    : references.map((_, k) => k);
  const main = chosen.map((reference, place) => {
    const condition = (place + participant) % conditions.length;
    const { files, sha256, replaced, ...image } = references[reference];
    return { kind: "test", ...image, ...conditions[condition], file: files[condition],
             sha256: sha256[condition], replaced: replaced[condition] };
  });
  const original = { condition: "natural", generator: "", stage: "", seed: "", replaced: false };
  const before = shuffled(natural, random).map((image, place) => ({
    kind: place < design.practice ? "practice" : "screening", ...original, ...image }));
  const catches = Array.from({ length: design.catch }, (_, k) => icons[k % icons.length])
    .map((image) => ({ kind: "catch", ...original, ...image }));
  const order = shuffled([...main, ...catches], random);
  return [...before, ...order].map((trial, number) => ({ trial: number + 1, ...trial }));
}
