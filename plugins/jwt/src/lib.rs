//! Lets only requests with a valid JSON Web Token pass.
