//! One field of settings: what stands at it in `#[setting(…)]`, and what that comes to. Invariant: a word that is not
//! understood is an error at its place, never left out.

use proc_macro2::{Delimiter, Spacing, TokenStream as Tokens, TokenTree};
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::{Error, Ident, Result, Token, Type};

pub(crate) struct Field {
    pub(crate) name: Ident,
    pub(crate) ty: Type,
    /// JSON
    pub(crate) default: Option<String>,
    pub(crate) required: bool,
    /// JSON
    doc: String,
    /// By the names of `Bounds`, JSON numbers.
    bounds: Vec<(Ident, String)>,
}

/// `min = 1, max = 100, default = [..], required`
struct Words(Vec<(Ident, Option<Tokens>)>);

const BOUNDS: [&str; 6] = ["min", "max", "min_length", "max_length", "min_items", "max_items"];

// === impl Field ===

impl Field {
    /// Takes the field's own attribute off it.
    pub(crate) fn take(field: &mut syn::Field) -> Result<Self> {
        let name = field.ident.clone().ok_or_else(|| Error::new_spanned(&field.ty, "settings have named fields"))?;
        let doc = crate::json(&crate::doc(&field.attrs));
        let mut of = Self { name, ty: field.ty.clone(), default: None, required: false, doc, bounds: Vec::new() };
        let (own, rest) =
            std::mem::take(&mut field.attrs).into_iter().partition(|attr| attr.path().is_ident("setting"));
        field.attrs = rest;
        let own: Vec<syn::Attribute> = own;
        for attribute in own {
            for (word, value) in attribute.parse_args::<Words>()?.0 {
                of.say(&word, value)?;
            }
        }
        if of.required && of.default.is_some() {
            return Err(Error::new_spanned(&of.name, "what is required has no default"));
        }
        Ok(of)
    }

    fn say(&mut self, word: &Ident, value: Option<Tokens>) -> Result<()> {
        let text = word.to_string();
        let unknown = || {
            let known = BOUNDS.join(", ");
            Err(Error::new(
                word.span(),
                format!("`{text}` is not understood here; known are required, default, {known}"),
            ))
        };
        match (text.as_str(), value) {
            ("required", None) => self.required = true,
            ("default", Some(value)) => self.default = Some(crate::json_text(value)),
            (bound, Some(value)) if BOUNDS.contains(&bound) => {
                let number = crate::json_text(value).replace('_', "");
                if number.parse::<f64>().is_err() {
                    return Err(Error::new(word.span(), format!("`{bound}` is a number")));
                }
                self.bounds.push((word.clone(), number));
            }
            _ => return unknown(),
        }
        Ok(())
    }

    /// A `Bounds` of it.
    pub(crate) fn bounds(&self) -> Tokens {
        let (doc, names) = (&self.doc, self.bounds.iter().map(|(name, _)| name));
        let numbers = self.bounds.iter().map(|(_, number)| number);
        let default = self.default.iter();
        quote! {
            ::tidegate_plugin_sdk::schema::Bounds {
                doc: #doc,
                #(default: #default,)*
                #(#names: #numbers,)*
                ..::tidegate_plugin_sdk::schema::Bounds::NONE
            }
        }
    }
}

// === impl Words ===

impl Parse for Words {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut words = Vec::new();
        while !input.is_empty() {
            let word: Ident = input.parse()?;
            let value = if input.peek(Token![=]) {
                input.parse::<Token![=]>()?;
                Some(value(input)?)
            } else {
                None
            };
            words.push((word, value));
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(Self(words))
    }
}

/// JSON up to the next comma.
fn value(input: ParseStream<'_>) -> Result<Tokens> {
    let mut found = Vec::new();
    while !input.is_empty() && !input.peek(Token![,]) {
        let tree: TokenTree = input.parse()?;
        let fits = match &tree {
            TokenTree::Group(group) => matches!(group.delimiter(), Delimiter::Bracket | Delimiter::Brace),
            TokenTree::Punct(punct) => punct.as_char() == '-' && punct.spacing() == Spacing::Alone,
            TokenTree::Ident(word) => ["true", "false", "null"].iter().any(|known| word == known),
            TokenTree::Literal(_) => true,
        };
        if !fits {
            return Err(Error::new(tree.span(), "a default is JSON, such as 5, \"text\", [1, 2] or {\"at\": 0.9}"));
        }
        found.push(tree);
    }
    if found.is_empty() {
        return Err(input.error("a value is missing"));
    }
    Ok(found.into_iter().collect())
}
