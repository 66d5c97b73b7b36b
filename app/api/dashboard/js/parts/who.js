// Whose job it is, by the name of the key that it was submitted with.
import { usePoll } from "../poll.js";
import { may, session, useStore } from "../store.js";

/** A function from a job to its owner's name; empty where no key was needed. */
export function useOwners() {
  const who = useStore(session);
  // Only an admin sees jobs of others, and only an admin may ask for the keys.
  const { data } = usePoll(who.keyId && may("admin") ? "/v1/keys" : null, { every: 60000 });
  return ({ key_id: id }) => {
    if (!id) return "";
    if (id === who.keyId) return who.name;
    return data?.keys.find((one) => one.id === id)?.name || id;
  };
}
