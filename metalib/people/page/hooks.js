// Where the data go. As it stands they leave the browser only when the participant presses the
// button "Save the answers" on the last page.
//
// A server of experiments wants them another way: give `send` a function of the text of the CSV
// file and of its name. It is called once, when the test is over.
//
//   JATOS      send: (csv, name) => jatos.endStudy(csv)           after loading jatos.js in index.html
//   Pavlovia   wrap the timeline with the plugin @jspsych-contrib/plugin-pipe or Pavlovia's own
//
// `participant` gives the number that decides which images are shown in which condition. Numbers
// that follow each other balance the conditions. It must not identify a person.
window.HOOKS = {
  send: null,
  participant: () => new URLSearchParams(location.search).get("participant"),
};
