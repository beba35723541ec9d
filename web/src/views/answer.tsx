import { useCallback, useEffect, useState } from "react";
import { reasonOf } from "../text.ts";

/** The server's answer, null until it is there, and a function that reloads it. */
export function useAnswer<T>(ask: () => Promise<T>): {
  answer: T | null;
  failed: string | null;
  again: () => Promise<void>;
} {
  const [answer, setAnswer] = useState<T | null>(null);
  const [failed, setFailed] = useState<string | null>(null);
  const again = useCallback(async () => {
    try {
      setAnswer(await ask());
      setFailed(null);
    } catch (error) {
      setFailed(reasonOf(error));
    }
  }, [ask]);
  useEffect(() => void again(), [again]);
  return { answer, failed, again };
}

export function Problem({ text }: { text: string | null }) {
  if (text === null) return null;
  return (
    <p className="error" role="alert">
      {text}
    </p>
  );
}
