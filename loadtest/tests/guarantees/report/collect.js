// Leaves what was seen of a page, here or in a frame, in an element of its own.
addEventListener("message", (message) => {
  const left = document.createElement("pre");
  left.id = "inspection";
  left.textContent = message.data;
  document.body.append(left);
});
