// The question for the token.

/** Asks until something is given; `wrong` says that the last one was refused. */
export function askForToken(wrong) {
  const dialog = document.getElementById("token-dialog");
  const field = document.getElementById("token-field");
  const form = document.getElementById("token-form");
  document.getElementById("token-wrong").textContent = wrong ? "The service refused that token." : "";
  field.value = "";
  dialog.addEventListener("cancel", stay);
  dialog.showModal();
  field.focus();
  return new Promise((resolve) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      dialog.removeEventListener("cancel", stay);
      dialog.close();
      resolve(field.value.trim());
    }, { once: true });
  });
}

// Nothing can be shown without the token, so Escape does not close the question.
function stay(event) {
  event.preventDefault();
}
